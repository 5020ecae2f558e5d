// A model with the tokenizer of another repository.
#pragma once

#include <filesystem>
#include <memory>

#include "formats/weight_source.h"

namespace quern {

/// The same weights, with all `tokenizer.*` keys (the chat template among them) from `folder`: what a
/// checkpoint's text side is there, else the one .gguf file's. unsupported when that vocabulary has more
/// tokens than the model's embedding has rows.
Result<std::unique_ptr<WeightSource>> with_tokenizer(std::unique_ptr<WeightSource> model,
                                                     const std::filesystem::path& folder);

}  // namespace quern
