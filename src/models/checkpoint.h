// Hugging Face checkpoints as models: a folder with config.json and *.safetensors.
#pragma once

#include <filesystem>
#include <memory>

#include "formats/weight_source.h"

namespace quern {

/// Opens a checkpoint, in full precision or quantized by GPTQ (formats/gptq.h). `text` is its text side in
/// GGUF's keys ("tokenizer.…"); without one the model's shape can still be told. The tensors keep their
/// Hugging Face names and lie in the mapped files; what GGUF files hold beside them (divisors of the rope
/// frequencies) is added under GGUF's names.
///
/// Where the embedding has more rows than `text` has tokens, tokens are added ("[PAD32011]", unused), as
/// converters to GGUF do. A head that config.json ties to the embedding is left out, so are buffers
/// (rotary_emb.inv_freq) and layers beyond num_hidden_layers; any other tensor that the model would not use,
/// and every used one of a type that is not computed with, is refused by name. Fails with not_found when
/// there is no config.json. name() is the folder.
Result<std::unique_ptr<WeightSource>> open_checkpoint(const std::filesystem::path& folder,
                                                      const Metadata& text);

/// True when the folder has a config.json and safetensors.
bool is_checkpoint(const std::filesystem::path& folder);

}  // namespace quern
