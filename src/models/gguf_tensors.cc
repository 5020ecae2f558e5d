#include "models/gguf_tensors.h"

#include <algorithm>

#include "models/model.h"
#include "models/tensor_table.h"

namespace quern {
namespace {

class Planner {
 public:
  Planner(const WeightSource& source, const ArchSpec& arch, const ModelConfig& config,
          const TensorTable& table)
      : source_(source),
        arch_(arch),
        config_(config),
        table_(table),
        permutes_(has_hf_names(source, arch) && arch.gguf_rope != arch.hf_rope) {}

  std::vector<GgufTensorPlan> plan() {
    add(Role::token_embd);
    for (const Role role : {Role::rope_freqs, Role::rope_factors_long, Role::rope_factors_short})
      add_factors(role);
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      for (const TensorName& names : arch_.tensors) {
        if (!is_per_layer(names.role)) continue;
        if (is_per_expert(names.role)) {
          add_experts(names.role, layer);
        } else {
          add(names.role, layer);
        }
      }
    }
    for (const Role role : {Role::output_norm, Role::output, Role::output_bias}) add(role);
    return std::move(plans_);
  }

 private:
  /// As a file of the model has it: outer dimensions of 1 beyond that are left out.
  std::vector<int64_t> shape_of(Role role, const RawTensor& tensor) const {
    std::vector<int64_t> shape = tensor.shape;
    const size_t dimensions = expected_shape(role, config_).size();
    while (shape.size() > dimensions && shape.front() == 1) shape.erase(shape.begin());
    return shape;
  }
  GgufTensorPlan& push(Role role, int64_t layer, const RawTensor& tensor) {
    GgufTensorPlan& plan = plans_.emplace_back();
    plan.role = role;
    plan.layer = layer;
    plan.name = expand_name(find_name(arch_, role)->gguf, layer, -1);
    plan.parts = {&tensor};
    plan.shape = shape_of(role, tensor);
    return plan;
  }
  void add(Role role, int64_t layer = -1) {
    const RawTensor* tensor = table_.find(role, layer);
    if (tensor == nullptr) return;
    GgufTensorPlan& plan = push(role, layer, *tensor);
    const bool turned = role == Role::attn_q || role == Role::attn_k || role == Role::attn_q_bias ||
                        role == Role::attn_k_bias;
    if (!permutes_ || !turned) return;
    plan.head_rows = config_.head_dim;
    plan.rotated_rows = config_.rope.rotated;
  }
  /// These have GGUF's names in every source.
  void add_factors(Role role) {
    const TensorName* names = find_name(arch_, role);
    const RawTensor* tensor = names == nullptr ? nullptr : source_.find(names->gguf);
    if (tensor != nullptr) push(role, -1, *tensor);
  }
  /// One tensor for each expert becomes a stack.
  void add_experts(Role role, int64_t layer) {
    if (table_.find(role, layer, 0) == nullptr) return;
    const Role stacked = role == Role::expert_gate ? Role::experts_gate
                         : role == Role::expert_up ? Role::experts_up
                                                   : Role::experts_down;
    GgufTensorPlan& plan = push(stacked, layer, *table_.find(role, layer, 0));
    plan.shape = shape_of(role, *plan.parts.front());
    plan.shape.insert(plan.shape.begin(), config_.experts);
    for (int64_t e = 1; e < config_.experts; ++e) plan.parts.push_back(table_.find(role, layer, e));
  }

  const WeightSource& source_;
  const ArchSpec& arch_;
  const ModelConfig& config_;
  const TensorTable& table_;
  bool permutes_;
  std::vector<GgufTensorPlan> plans_;
};

}  // namespace

Result<std::vector<GgufTensorPlan>> gguf_tensors(const WeightSource& source) {
  QUERN_TRY(const ModelConfig config, read_model_config(source));
  const ArchSpec& arch = *find_arch(config.architecture);
  QUERN_TRY(const TensorTable table, TensorTable::create(source, arch, config));
  return Planner(source, arch, config, table).plan();
}

}  // namespace quern
