// What a model file is, without loading it: for `inspect` and /api/llms.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/weight_source.h"
#include "models/model.h"

namespace quern {

struct ModelSummary {
  std::string architecture;  // general.architecture; may be one that does not run here
  std::string name;          // general.name; may be empty
  std::string quantization;  // "Q4_K_M": as the file says, else the type that most weights have
  int64_t parameters = 0;
  uint64_t bytes = 0;  // of all tensors
  double bits_per_weight = 0;
  struct Type {
    DType dtype;
    std::string name;  // "Q4_K", "GPTQ 4-bit g128"
    int64_t tensors = 0, parameters = 0;
    uint64_t bytes = 0;
  };
  std::vector<Type> types;  // most bytes first

  /// Empty when the model cannot run here; `problem` then says why.
  std::optional<ModelConfig> config;
  std::string problem;
  /// Memory of an f16 key/value cache for one token; 0 without a config.
  uint64_t kv_bytes_per_token = 0;
};

ModelSummary summarize_model(const WeightSource& source);

/// As in ModelSummary: "Q4_K_M", "F16"; "none" for a file without tensors.
std::string quantization_name(const WeightSource& source);

}  // namespace quern
