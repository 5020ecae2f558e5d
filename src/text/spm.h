// SentencePiece-style tokenizer (tokenizer.ggml.model = "llama"): pairs join by score, unknown characters
// become bytes.
#pragma once

#include "text/tokenizer_base.h"

namespace quern {

Result<std::unique_ptr<Tokenizer>> make_spm_tokenizer(const Metadata& metadata, Warnings& warnings);

}  // namespace quern
