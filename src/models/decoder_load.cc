// Weights and scratch memory of the common decoder.
#include <algorithm>
#include <array>
#include <utility>

#include "core/log.h"
#include "models/decoder.h"
#include "models/tensor_table.h"
#include "quant/quant.h"

namespace quern {
namespace {

/// Prepares tensors by role and reports progress.
class Loader {
 public:
  Loader(const TensorTable& table, Backend& backend, const ModelConfig& config, const ModelOptions& options)
      : table_(table), backend_(backend), config_(config), options_(options) {}

  int64_t parameters() const { return parameters_; }
  std::vector<DecoderWeights::Held> matrices() { return std::move(matrices_); }
  const TensorTable& table() const { return table_; }

  /// Null when the file has no such tensor.
  Result<std::unique_ptr<Weight>> weight(Role role, int64_t layer = -1, int64_t expert = -1) {
    const RawTensor* tensor = table_.find(role, layer, expert);
    if (tensor == nullptr) return nullptr;
    QUERN_TRY(auto weight, backend_.prepare(*tensor));
    if (!weight->warning.empty() && !std::exchange(warned_, true))
      log::warn("weights are not held as they should be; there may be more of them",
                {{"tensor", tensor->name}, {"why", weight->warning}});
    QUERN_TRY_VOID(count(*tensor));
    if (role != Role::token_embd)
      matrices_.push_back({weight.get(), tensor->data});  // embed reads that always
    return weight;
  }
  /// The embedding; when it serves as head too, as a matrix.
  Result<std::unique_ptr<Weight>> embedding() {
    if (!table_.has(Role::output)) return weight(Role::token_embd);
    const RawTensor& tensor = *table_.find(Role::token_embd);
    QUERN_TRY(auto weight, backend_.prepare_table(tensor));
    QUERN_TRY_VOID(count(tensor));
    return weight;
  }
  Result<std::unique_ptr<Vector>> vector(Role role, int64_t layer = -1) {
    const RawTensor* tensor = table_.find(role, layer);
    if (tensor == nullptr) return nullptr;
    QUERN_TRY(auto vector, backend_.prepare_vector(*tensor));
    QUERN_TRY_VOID(count(*tensor));
    return vector;
  }
  Result<> linear(nn::Linear& out, int64_t layer, Role weight_role, std::optional<Role> bias_role = {}) {
    QUERN_TRY(out.weight, weight(weight_role, layer));
    if (bias_role) {
      QUERN_TRY(out.bias, vector(*bias_role, layer));
    }
    return {};
  }
  Result<> norm(nn::RmsNorm& out, int64_t layer, Role role) {
    QUERN_TRY(out.gain, vector(role, layer));
    out.eps = config_.norm_eps;
    return {};
  }

 private:
  Result<> count(const RawTensor& tensor) {
    parameters_ += tensor.elements();
    done_ += stored_bytes(tensor);
    if (options_.progress && !options_.progress(done_, table_.bytes()))
      return fail(ErrorCode::cancelled, "loading was cancelled");
    return {};
  }

  const TensorTable& table_;
  Backend& backend_;
  const ModelConfig& config_;
  const ModelOptions& options_;
  std::vector<DecoderWeights::Held> matrices_;
  bool warned_ = false;
  uint64_t done_ = 0;
  int64_t parameters_ = 0;
};

Result<> load_attention(Loader& loader, int64_t layer, nn::AttentionWeights& w) {
  QUERN_TRY_VOID(loader.linear(w.qkv, layer, Role::attn_qkv, Role::attn_qkv_bias));
  QUERN_TRY_VOID(loader.linear(w.q, layer, Role::attn_q, Role::attn_q_bias));
  QUERN_TRY_VOID(loader.linear(w.k, layer, Role::attn_k, Role::attn_k_bias));
  QUERN_TRY_VOID(loader.linear(w.v, layer, Role::attn_v, Role::attn_v_bias));
  QUERN_TRY_VOID(loader.norm(w.q_norm, layer, Role::attn_q_norm));
  QUERN_TRY_VOID(loader.norm(w.k_norm, layer, Role::attn_k_norm));
  return loader.linear(w.out, layer, Role::attn_out, Role::attn_out_bias);
}

Result<> load_mlp(Loader& loader, int64_t layer, nn::MlpWeights& w) {
  QUERN_TRY_VOID(loader.linear(w.gate_up, layer, Role::ffn_gate_up));
  QUERN_TRY_VOID(loader.linear(w.gate, layer, Role::ffn_gate, Role::ffn_gate_bias));
  QUERN_TRY_VOID(loader.linear(w.up, layer, Role::ffn_up, Role::ffn_up_bias));
  return loader.linear(w.down, layer, Role::ffn_down, Role::ffn_down_bias);
}

Result<> load_moe(Loader& loader, int64_t layer, int64_t experts, nn::MoeWeights& w) {
  QUERN_TRY(w.router, loader.weight(Role::router, layer));
  if (loader.table().stacked_experts()) {
    QUERN_TRY(w.gate, loader.weight(Role::experts_gate, layer));
    QUERN_TRY(w.up, loader.weight(Role::experts_up, layer));
    QUERN_TRY(w.down, loader.weight(Role::experts_down, layer));
    return {};
  }
  w.single.resize(static_cast<size_t>(experts));
  for (int64_t e = 0; e < experts; ++e) {
    nn::MlpWeights& expert = w.single[static_cast<size_t>(e)];
    QUERN_TRY(expert.gate.weight, loader.weight(Role::expert_gate, layer, e));
    QUERN_TRY(expert.up.weight, loader.weight(Role::expert_up, layer, e));
    QUERN_TRY(expert.down.weight, loader.weight(Role::expert_down, layer, e));
  }
  return {};
}

Result<DecoderLayer> load_layer(Loader& loader, int64_t index, const ModelConfig& config) {
  DecoderLayer layer;
  QUERN_TRY_VOID(loader.norm(layer.attn_norm, index, Role::attn_norm));
  QUERN_TRY_VOID(load_attention(loader, index, layer.attention));
  QUERN_TRY_VOID(loader.norm(layer.ffn_norm, index, Role::ffn_norm));
  if (config.experts > 0) {
    QUERN_TRY_VOID(load_moe(loader, index, config.experts, layer.moe.emplace()));
  } else {
    QUERN_TRY_VOID(load_mlp(loader, index, layer.mlp));
  }
  return layer;
}

}  // namespace

Result<DecoderLayer> load_decoder_layer(const TensorTable& table, Backend& backend, const ModelConfig& config,
                                        int64_t layer) {
  const ModelOptions options;
  Loader loader(table, backend, config, options);
  return load_layer(loader, layer, config);
}

Result<DecoderWeights> load_decoder_weights(const WeightSource& source, Backend& backend,
                                            const ArchSpec& arch, const ModelConfig& config,
                                            const ModelOptions& options) {
  QUERN_TRY(const TensorTable table, TensorTable::create(source, arch, config));
  Loader loader(table, backend, config, options);
  DecoderWeights w;
  QUERN_TRY(w.embedding, loader.embedding());
  for (int64_t i = 0; i < config.layers; ++i) {
    QUERN_TRY(auto layer, load_layer(loader, i, config));
    w.layers.push_back(std::move(layer));
  }
  QUERN_TRY_VOID(loader.norm(w.output_norm, -1, Role::output_norm));
  QUERN_TRY_VOID(loader.linear(w.head, -1, Role::output, Role::output_bias));
  QUERN_TRY(w.rope_frequency, backend.prepare_vector(std::span<const float>(config.rope_frequency)));
  w.parameters = loader.parameters();
  w.source = &source;
  if (source.holds_memory()) w.held = loader.matrices();
  QUERN_TRY_VOID(source.check());
  return w;
}

namespace {

/// Rows start on 64 bytes.
struct ScratchPart {
  Tensor* tensor;
  int64_t rows, cols;
  int64_t stride() const { return (cols + 15) / 16 * 16; }  // in floats
};

/// Sizes: rows < 2^20, cols < 2^31.
std::array<ScratchPart, 10> scratch_parts(DecoderScratch& s, const ModelConfig& c, int64_t max_rows) {
  constexpr int64_t head_rows = 64;
  const bool dense = c.experts == 0;
  const int64_t used_rows = dense ? 0 : max_rows * c.experts_used;
  return {{{&s.x, max_rows, c.dim},
           {&s.normed, max_rows, c.dim},
           {&s.qkv, max_rows, (c.heads + 2 * c.kv_heads) * c.head_dim},
           {&s.heads, max_rows, c.heads * c.head_dim},
           {&s.gate_up, dense ? max_rows : 0, 2 * c.ffn_dim},
           {&s.moe.logits, dense ? 0 : max_rows, c.experts},
           {&s.moe.gathered, dense ? 0 : max_rows, c.dim},
           {&s.moe.gate_up, used_rows, 2 * c.ffn_dim},
           {&s.moe.out, used_rows, c.dim},
           {&s.logits, std::min(max_rows, head_rows), c.vocab}}};
}

uint64_t scratch_bytes(std::span<const ScratchPart> parts) {
  int64_t floats = 0;
  for (const ScratchPart& p : parts) floats += p.rows * p.stride();
  return static_cast<uint64_t>(floats) * sizeof(float);
}

}  // namespace

Result<DecoderScratch> allocate_scratch(Backend& backend, const ModelConfig& c, int64_t max_rows) {
  DecoderScratch s;
  const auto parts = scratch_parts(s, c, max_rows);
  QUERN_TRY(s.memory, backend.alloc(scratch_bytes(parts)));
  auto* next = static_cast<float*>(s.memory->data());
  for (const ScratchPart& p : parts) {
    *p.tensor = {next, p.rows, p.cols, p.stride()};
    next += p.rows * p.stride();
  }
  return s;
}

uint64_t model_memory(const WeightSource& source, const Backend& backend, const ModelConfig& config,
                      int64_t max_batch_rows) {
  DecoderScratch unused;
  uint64_t bytes = scratch_bytes(scratch_parts(unused, config, max_batch_rows));
  const ArchSpec* arch = find_arch(config.architecture);
  const bool hf = arch != nullptr && has_hf_names(source, *arch);
  const auto is = [&](const RawTensor& tensor, Role role) {
    const TensorName* names = arch == nullptr ? nullptr : find_name(*arch, role);
    return names != nullptr && tensor.name == (hf ? names->hf : names->gguf);
  };
  const bool own_head = std::ranges::any_of(
      source.tensors(), [&](const RawTensor& tensor) { return is(tensor, Role::output); });
  for (const RawTensor& tensor : source.tensors()) {
    if (tensor.shape.size() < 2)
      bytes += static_cast<uint64_t>(tensor.elements()) * sizeof(float);
    else if (own_head && is(tensor, Role::token_embd))
      bytes += tensor.data.size();  // prepare_table's
    else
      bytes += backend.prepared_bytes(tensor);
    // A head that is the embedding, too: embed goes on reading the source's.
    if (source.holds_memory() && !own_head && is(tensor, Role::token_embd)) bytes += tensor.data.size();
  }
  return bytes;
}

}  // namespace quern
