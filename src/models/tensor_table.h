// The tensors of a model by role: found in a source, and held to the shapes that the configuration asks for.
#pragma once

#include <vector>

#include "formats/weight_source.h"
#include "models/arch.h"
#include "models/model.h"

namespace quern {

/// A tensor's shape by the metadata, outermost first.
std::vector<int64_t> expected_shape(Role role, const ModelConfig& config);

class TensorTable {
 public:
  /// Looks only at names and shapes. Errors name the tensor: missing, or both shapes.
  static Result<TensorTable> create(const WeightSource& source, const ArchSpec& arch,
                                    const ModelConfig& config);

  /// Null when the file has none (then it is optional, or its role is not used).
  const RawTensor* find(Role role, int64_t layer = -1, int64_t expert = -1) const;
  bool has(Role role, int64_t layer = -1, int64_t expert = -1) const {
    return find(role, layer, expert) != nullptr;
  }

  /// Bytes of all tensors that the model uses.
  uint64_t bytes() const { return bytes_; }
  bool stacked_experts() const { return stacked_experts_; }

 private:
  const WeightSource* source_ = nullptr;
  const ArchSpec* arch_ = nullptr;
  bool hf_ = false;
  bool stacked_experts_ = false;
  uint64_t bytes_ = 0;

  std::string name(const TensorName& names, int64_t layer, int64_t expert) const;
  Result<> check(const TensorName& names, const ModelConfig& config);
  Result<bool> check_one(const TensorName& names, const ModelConfig& config, int64_t layer, int64_t expert);
};

/// True when the source names its tensors as Hugging Face checkpoints do.
bool has_hf_names(const WeightSource& source, const ArchSpec& arch);

}  // namespace quern
