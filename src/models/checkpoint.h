// Hugging Face checkpoints as models: a folder with config.json and *.safetensors.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"
#include "formats/weight_source.h"

namespace quern {

/// A checkpoint some of whose shards are still on their way: its metadata and the tensors' types and shapes
/// are known, and each shard's data from its arrival to its leave. One call at a time for one shard.
class ArrivingCheckpoint : public WeightSource {
 public:
  /// The tensors in a shard that the model uses; of "" those in none.
  virtual std::vector<const RawTensor*> tensors_of(std::string_view shard) const = 0;
  /// The shard lies in the folder now, whole and checked. corrupt: it is not what its header announced.
  virtual Result<> arrive(std::string_view shard) = 0;
  /// Its data was read for the last time: the file is closed. io: it was changed meanwhile.
  virtual Result<> leave(std::string_view shard) = 0;
};

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

/// As open_checkpoint, with shards that are not in the folder yet; unsupported for a quantized checkpoint.
Result<std::unique_ptr<ArrivingCheckpoint>> open_arriving_checkpoint(
    const std::filesystem::path& folder, const Metadata& text,
    std::span<const safetensors::AbsentShard> absent);

/// True when the folder has a config.json and safetensors.
bool is_checkpoint(const std::filesystem::path& folder);

}  // namespace quern
