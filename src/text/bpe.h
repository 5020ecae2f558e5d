// Byte-level BPE (tokenizer.ggml.model = "gpt2"): words by a pre-tokenizer, pairs join in the order of the
// merge list.
#pragma once

#include "text/tokenizer_base.h"

namespace quern {

Result<std::unique_ptr<Tokenizer>> make_bpe_tokenizer(const Metadata& metadata, Warnings& warnings);

}  // namespace quern
