// config.json of a Hugging Face checkpoint → the metadata that a GGUF file of the model would have.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/metadata.h"
#include "core/result.h"
#include "models/arch.h"

namespace quern {

class HfFields;

struct HfConfig {
  const ArchSpec* arch = nullptr;
  const HfClass* hf_class = nullptr;
  /// general.architecture and the architecture's own keys. Consistency among them is read_model_config's to
  /// check.
  Metadata metadata;
  int64_t layers = 0;
  int64_t vocab = 0;         // 0: not said
  std::optional<bool> tied;  // tie_word_embeddings; empty: not said
  bool attention_bias = false, mlp_bias = false;
  /// What GGUF files hold as tensors: divisors of the rope frequencies.
  struct RopeFactors {
    Role role = Role::rope_freqs;
    std::vector<float> divisors;
  };
  std::vector<RopeFactors> rope_factors;
};

constexpr size_t kMaxHfConfigBytes = 1 << 20;

/// Reads the text of a config.json; `name` is for messages. Refuses, by key and value, what would change the
/// results and is not supported: other architectures, activations, kinds of rope. How weights are quantized is
/// for formats/gptq_config.h.
Result<HfConfig> read_hf_config(std::string_view json, const std::string& name);

/// The part of it about rotary embeddings; `head_dim` and `context` as read before.
Result<> read_hf_rope(const HfFields& config, int64_t head_dim, int64_t context, HfConfig& out);

}  // namespace quern
