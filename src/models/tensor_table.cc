#include "models/tensor_table.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/log.h"
#include "quant/quant.h"

namespace quern {
namespace {

using Shape = std::vector<int64_t>;

bool stack(Role role) { return role >= Role::experts_gate && role <= Role::experts_down; }
bool of_experts(Role role) { return role >= Role::router; }
bool of_dense(Role role) { return role >= Role::ffn_gate_up && role <= Role::ffn_down_bias; }

std::string print(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// Outer dimensions of 1 say nothing.
Shape significant(const Shape& shape) {
  const auto first = std::ranges::find_if(shape, [](int64_t n) { return n != 1; });
  return first == shape.end() ? Shape{1} : Shape(first, shape.end());
}

}  // namespace

std::vector<int64_t> expected_shape(Role role, const ModelConfig& c) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  switch (role) {
    case Role::token_embd:
    case Role::output:
      return {c.vocab, c.dim};
    case Role::output_bias:
      return {c.vocab};
    case Role::rope_freqs:
    case Role::rope_factors_long:
    case Role::rope_factors_short:
      return {c.rope.rotated / 2};
    case Role::output_norm:
    case Role::attn_norm:
    case Role::attn_out_bias:
    case Role::ffn_down_bias:
    case Role::ffn_norm:
      return {c.dim};
    case Role::attn_qkv:
      return {q + 2 * kv, c.dim};
    case Role::attn_q:
      return {q, c.dim};
    case Role::attn_k:
    case Role::attn_v:
      return {kv, c.dim};
    case Role::attn_qkv_bias:
      return {q + 2 * kv};
    case Role::attn_q_bias:
      return {q};
    case Role::attn_k_bias:
    case Role::attn_v_bias:
      return {kv};
    case Role::attn_q_norm:
    case Role::attn_k_norm:
      return {c.head_dim};
    case Role::attn_out:
      return {c.dim, q};
    case Role::ffn_gate_up:
      return {2 * c.ffn_dim, c.dim};
    case Role::ffn_gate:
    case Role::ffn_up:
    case Role::expert_gate:
    case Role::expert_up:
      return {c.ffn_dim, c.dim};
    case Role::ffn_down:
    case Role::expert_down:
      return {c.dim, c.ffn_dim};
    case Role::ffn_gate_bias:
    case Role::ffn_up_bias:
      return {c.ffn_dim};
    case Role::router:
      return {c.experts, c.dim};
    case Role::experts_gate:
    case Role::experts_up:
      return {c.experts, c.ffn_dim, c.dim};
    case Role::experts_down:
      return {c.experts, c.dim, c.ffn_dim};
  }
  return {};
}

bool has_hf_names(const WeightSource& source, const ArchSpec& arch) {
  const TensorName* embedding = find_name(arch, Role::token_embd);
  return embedding != nullptr && source.find(embedding->gguf) == nullptr &&
         source.find(embedding->hf) != nullptr;
}

std::string TensorTable::name(const TensorName& names, int64_t layer, int64_t expert) const {
  return expand_name(hf_ ? names.hf : names.gguf, layer, expert);
}

const RawTensor* TensorTable::find(Role role, int64_t layer, int64_t expert) const {
  const TensorName* names = find_name(*arch_, role);
  return names == nullptr ? nullptr : source_->find(name(*names, layer, expert));
}

Result<bool> TensorTable::check_one(const TensorName& names, const ModelConfig& config, int64_t layer,
                                    int64_t expert) {
  const std::string tensor_name = name(names, layer, expert);
  const RawTensor* tensor = source_->find(tensor_name);
  if (tensor == nullptr) {
    if (names.optional) return false;
    return fail(ErrorCode::not_found, "{}: tensor {} is missing: an {} model needs it", source_->name(),
                tensor_name, arch_->name);
  }
  const Shape expected = expected_shape(names.role, config);
  if (significant(tensor->shape) != significant(expected)) {
    return fail(ErrorCode::corrupt, "{}: tensor {} has shape {}, expected {} by the metadata",
                source_->name(), tensor_name, print(tensor->shape), print(expected));
  }
  bytes_ += stored_bytes(*tensor);
  return true;
}

Result<> TensorTable::check(const TensorName& names, const ModelConfig& config) {
  const int64_t layers = is_per_layer(names.role) ? config.layers : 1;
  const int64_t experts = is_per_expert(names.role) ? config.experts : 1;
  int64_t found = 0, missing_layer = -1;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int64_t expert = 0; expert < experts; ++expert) {
      QUERN_TRY(const bool there, check_one(names, config, layer, expert));
      found += there ? 1 : 0;
      if (!there) missing_layer = layer;
    }
  }
  if (found != 0 && missing_layer >= 0) {
    return fail(ErrorCode::corrupt, "{}: tensor {} is missing, but other layers have theirs", source_->name(),
                name(names, missing_layer, 0));
  }
  return {};
}

Result<TensorTable> TensorTable::create(const WeightSource& source, const ArchSpec& arch,
                                        const ModelConfig& config) {
  TensorTable table;
  table.source_ = &source;
  table.arch_ = &arch;
  table.hf_ = has_hf_names(source, arch);
  // Layer 0 decides for all layers; a GGUF file that has neither kind is told that the stack is missing.
  table.stacked_experts_ = config.experts > 0 && !table.hf_ && !table.has(Role::expert_gate, 0, 0);

  for (const TensorName& names : arch.tensors) {
    if (of_experts(names.role) && config.experts == 0) continue;
    if (of_dense(names.role) && config.experts > 0) continue;
    if (stack(names.role) && !table.stacked_experts_) continue;
    if (is_per_expert(names.role) && table.stacked_experts_) continue;
    if (table.name(names, 0, 0).empty()) continue;
    QUERN_TRY_VOID(table.check(names, config));
  }
  if (log::enabled(log::Level::debug) && table.bytes_ < source.bytes()) {
    log::debug("tensors that the model does not use are left alone",
               {{"file", source.name()}, {"bytes", source.bytes() - table.bytes_}});
  }
  return table;
}

}  // namespace quern
