// Tokenizer metadata: made up, so that no other file is needed, or another file's.
#pragma once

#include "core/metadata.h"
#include "core/result.h"
#include "make_model/shape.h"

namespace quern::make_model {

/// Adds `tokenizer.*` for `size` tokens: special tokens, all bytes, and letters joined to longer and longer
/// tokens. SPM starts with `<unk> <s> </s>`, the bytes and `<|endoftext|>`; byte-level BPE ends with
/// `<|endoftext|> <|im_start|> <|im_end|>`, and `pre` names its pre-tokenizer. With `old`, there is neither
/// `tokenizer.ggml.pre` nor a chat template.
Result<> add_made_up_vocabulary(Metadata& metadata, VocabularyKind kind, int64_t size, std::string_view pre,
                                bool old);

/// Adds the `tokenizer.*` of a GGUF file and returns its number of tokens.
Result<int64_t> add_vocabulary_of(Metadata& metadata, const std::string& path, bool old);

}  // namespace quern::make_model
