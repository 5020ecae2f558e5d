#include "models/checkpoint_biases.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "quant/quant.h"

namespace quern {
namespace {

struct Rule {
  Role role;
  bool wanted;
  std::string_view key;
};

std::vector<Rule> rules_of(const HfConfig& config) {
  const bool out = config.attention_bias && config.hf_class->attention_bias == HfBias::by_key;
  return {{Role::attn_q_bias, config.attention_bias, "attention_bias"},
          {Role::attn_k_bias, config.attention_bias, "attention_bias"},
          {Role::attn_v_bias, config.attention_bias, "attention_bias"},
          {Role::attn_out_bias, out, "attention_bias"},
          {Role::ffn_gate_bias, config.mlp_bias, "mlp_bias"},
          {Role::ffn_up_bias, config.mlp_bias, "mlp_bias"},
          {Role::ffn_down_bias, config.mlp_bias, "mlp_bias"}};
}

bool is_zero(const RawTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  decode_rows(tensor, 0, tensor.rows(), values.data());
  return std::ranges::all_of(values, [](float x) { return x == 0; });
}

class Settling {
 public:
  Settling(safetensors::Checkpoint& files, const HfConfig& config, const std::string& name)
      : files_(files), config_(config), name_(name) {
    for (const RawTensor& tensor : files.tensors) index_.emplace(tensor.name, &tensor);
  }

  Result<> settle(std::span<const std::string> quantized_modules) {
    std::unordered_set<std::string> extra;  // biases that the configuration may not know
    for (const std::string& module : quantized_modules)
      if (index_.contains(module + ".bias")) extra.insert(module + ".bias");
    for (const Rule& rule : rules_of(config_)) {
      const TensorName* names = find_name(*config_.arch, rule.role);
      if (names == nullptr || names->hf.empty()) continue;
      const std::string first = expand_name(names->hf, 0, -1);
      const bool used = !rule.wanted && any_counts(*names, extra);
      if (rule.wanted || used) forget(*names, extra);
      if (used || extra.contains(first) || index_.contains(first) == rule.wanted) continue;
      return fail(ErrorCode::corrupt, "{}: tensor {} is {}, but by config.json ({}) the model has {}", name_,
                  first, rule.wanted ? "missing" : "there", rule.key, rule.wanted ? "it" : "none");
    }
    std::erase_if(files_.tensors,
                  [&](const RawTensor& tensor) { return extra.contains(tensor.name) && is_zero(tensor); });
    return {};
  }

 private:
  /// Whether one of the kind, in any layer, is such a bias and not zero.
  bool any_counts(const TensorName& names, const std::unordered_set<std::string>& extra) const {
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const std::string tensor = expand_name(names.hf, layer, -1);
      if (extra.contains(tensor) && !is_zero(*index_.at(tensor))) return true;
    }
    return false;
  }
  void forget(const TensorName& names, std::unordered_set<std::string>& extra) const {
    for (int64_t layer = 0; layer < config_.layers; ++layer) extra.erase(expand_name(names.hf, layer, -1));
  }

  safetensors::Checkpoint& files_;
  const HfConfig& config_;
  const std::string& name_;
  std::unordered_map<std::string_view, const RawTensor*> index_;
};

}  // namespace

Result<> settle_biases(safetensors::Checkpoint& files, const HfConfig& config,
                       std::span<const std::string> quantized_modules, const std::string& name) {
  return Settling(files, config, name).settle(quantized_modules);
}

}  // namespace quern
