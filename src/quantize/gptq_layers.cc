#include "quantize/gptq_layers.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "kv/kv_cache.h"
#include "models/decoder.h"
#include "models/tensor_table.h"

namespace quern {
namespace {

constexpr int64_t kKvBlock = 32;

/// Activations in the backend's memory.
struct Activations {
  std::unique_ptr<DeviceBuffer> memory;
  Tensor all;

  static Result<Activations> create(Backend& backend, int64_t rows, int64_t cols) {
    Activations a;
    QUERN_TRY(a.memory, backend.alloc(static_cast<size_t>(rows * cols) * sizeof(float)));
    a.all = {static_cast<float*>(a.memory->data()), rows, cols, cols};
    return a;
  }
};

/// A matrix and its place in the layer that runs.
struct Slot {
  nn::Linear* linear;
  Role role;
};

class Walk {
 public:
  Walk(Backend& backend, Dense& dense, const WeightSource& source, const LayerWalkOptions& options,
       const std::function<Result<>(SharedInputs&)>& visit)
      : backend_(backend), dense_(dense), source_(source), options_(options), visit_(visit) {}

  Result<> run(std::span<const int32_t> tokens);

 private:
  Result<> prepare(int64_t chunks);
  Result<> embed(std::span<const int32_t> tokens);
  Result<> run_layer(DecoderLayer& layer);
  Result<> run_attention(DecoderLayer& layer);
  Result<> run_mlp(nn::MlpWeights& mlp);
  Result<> run_experts(nn::MoeWeights& moe);
  Result<> run_expert(nn::MlpWeights& mlp, int64_t expert, std::span<const nn::Routing> routing);

  /// Calls inputs(chunk) for each chunk: the rows that the slots' matrices read. Then the visitor.
  template <class Inputs>
  Result<> calibrate(std::span<const Slot> slots, int64_t cols, const Inputs& inputs, int64_t expert = -1);
  Result<> take(std::vector<SharedInputs::Matrix>& matrices, std::span<const Slot> slots);
  template <class Body>
  Result<> for_chunks(const Body& body);
  /// silu(gate(in)) · up(in), in gate's columns of the scratch.
  Tensor activate(const nn::MlpWeights& mlp, Tensor in);

  Tensor x(int64_t chunk) const { return x_.all.slice_rows(chunk * options_.context, options_.context); }
  /// The first `cols` columns of the other activations.
  Tensor y(int64_t chunk, int64_t cols) const {
    return y_.all.slice_rows(chunk * options_.context, options_.context).slice_cols(0, cols);
  }
  bool last() const { return layer_ + 1 == config_.layers; }

  Backend& backend_;
  Dense& dense_;
  const WeightSource& source_;
  const LayerWalkOptions& options_;
  const std::function<Result<>(SharedInputs&)>& visit_;
  ModelConfig config_;
  TensorTable table_;
  nn::AttentionLayout attention_;
  std::unique_ptr<Vector> frequency_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> blocks_, positions_;
  int64_t chunks_ = 0, layer_ = 0, steps_ = 0, all_steps_ = 1;
  Activations x_;                // between the layers: [tokens][dim]
  Activations y_;                // norms, heads: [tokens][the larger of both]
  Activations qkv_;              // of one chunk
  Activations gate_up_;          // likewise
  Activations gathered_;         // likewise: rows of an expert
  Activations out_;              // likewise: what it makes of them
  std::vector<Buffer> weights_;  // the layer's quantized ones
};

Result<> Walk::prepare(int64_t chunks) {
  chunks_ = chunks;
  QUERN_TRY(config_, read_model_config(source_, options_.context));
  const ArchSpec& arch = *find_arch(config_.architecture);
  QUERN_TRY(table_, TensorTable::create(source_, arch, config_));
  if (table_.stacked_experts())
    return fail(ErrorCode::unsupported, "{}: its experts are one tensor; a Hugging Face checkpoint is needed",
                source_.name());
  const int64_t q = config_.heads * config_.head_dim, kv = config_.kv_heads * config_.head_dim;
  const int64_t rows = chunks * options_.context;
  QUERN_TRY(x_, Activations::create(backend_, rows, config_.dim));
  QUERN_TRY(y_, Activations::create(backend_, rows, std::max(config_.dim, q)));
  QUERN_TRY(qkv_, Activations::create(backend_, options_.context, q + 2 * kv));
  QUERN_TRY(gate_up_, Activations::create(backend_, options_.context, 2 * config_.ffn_dim));
  if (config_.experts > 0) {
    QUERN_TRY(gathered_, Activations::create(backend_, options_.context, config_.dim));
    QUERN_TRY(out_, Activations::create(backend_, options_.context, std::max(config_.dim, config_.experts)));
  }
  QUERN_TRY(frequency_, backend_.prepare_vector(std::span<const float>(config_.rope_frequency)));
  attention_ = {{config_.heads, 1 / std::sqrt(static_cast<float>(config_.head_dim)), config_.window},
                config_.rope,
                frequency_.get()};
  const int64_t blocks = (options_.context + kKvBlock - 1) / kKvBlock;
  const KvShape shape{config_.kv_heads, config_.head_dim, kKvBlock, KvType::f16};
  QUERN_TRY(cache_, KvCache::create(backend_, shape, 1, blocks));
  blocks_.resize(static_cast<size_t>(blocks));
  positions_.resize(static_cast<size_t>(options_.context));
  std::iota(blocks_.begin(), blocks_.end(), 0);
  std::iota(positions_.begin(), positions_.end(), 0);
  all_steps_ = config_.layers * chunks * (config_.experts > 0 ? 4 + 3 * config_.experts : 6);
  return {};
}

template <class Body>
Result<> Walk::for_chunks(const Body& body) {
  for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
    body(chunk);
    ++steps_;
    if (options_.progress &&
        !options_.progress(static_cast<double>(steps_) / static_cast<double>(all_steps_)))
      return fail(ErrorCode::cancelled, "quantizing was cancelled");
  }
  return source_.check();
}

template <class Inputs>
Result<> Walk::calibrate(std::span<const Slot> slots, int64_t cols, const Inputs& inputs, int64_t expert) {
  SharedInputs shared;
  for (const Slot& slot : slots) shared.matrices.push_back({table_.find(slot.role, layer_, expert), {}});
  QUERN_TRY(shared.products, SquareMatrix::create(cols));
  QUERN_TRY_VOID(for_chunks([&](int64_t chunk) {
    const Tensor rows = inputs(chunk);
    if (rows.rows == 0) return;
    dense_.add_outer_products(shared.products, rows.data, rows.rows, rows.stride);
    shared.count += rows.rows;
  }));
  QUERN_TRY_VOID(visit_(shared));
  return take(shared.matrices, slots);
}

/// What the visitor made of the matrices runs from here on.
Result<> Walk::take(std::vector<SharedInputs::Matrix>& matrices, std::span<const Slot> slots) {
  for (size_t i = 0; i < slots.size(); ++i) {
    if (matrices[i].weights.size() == 0) continue;
    const RawTensor& tensor = *matrices[i].tensor;
    const Buffer& kept = weights_.emplace_back(std::move(matrices[i].weights));
    QUERN_TRY(slots[i].linear->weight,
              backend_.prepare({tensor.name, DType::F32, tensor.shape, {kept.data(), kept.size()}}));
  }
  return {};
}

Result<> Walk::embed(std::span<const int32_t> tokens) {
  QUERN_TRY(const auto table, backend_.prepare_table(*table_.find(Role::token_embd)));
  std::vector<int32_t> ids;
  for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
    const auto begin = tokens.begin() + chunk * options_.context;
    ids.assign(begin, begin + options_.context);
    if (options_.bos >= 0) ids.front() = options_.bos;
    const auto known = [&](int32_t id) { return id >= 0 && id < config_.vocab; };
    if (!std::ranges::all_of(ids, known))
      return fail(ErrorCode::invalid_argument, "the text has tokens that are not in the vocabulary of {}",
                  config_.vocab);
    backend_.embed(x(chunk), *table, ids);
  }
  return {};
}

Result<> Walk::run_attention(DecoderLayer& layer) {
  nn::AttentionWeights& w = layer.attention;
  const int64_t q_cols = attention_.q_cols();
  std::vector<Slot> projections{{&w.qkv, Role::attn_qkv}};
  if (!w.qkv) projections = {{&w.q, Role::attn_q}, {&w.k, Role::attn_k}, {&w.v, Role::attn_v}};
  QUERN_TRY_VOID(calibrate(projections, config_.dim, [&](int64_t chunk) {
    layer.attn_norm(backend_, y(chunk, config_.dim), x(chunk));
    return y(chunk, config_.dim);
  }));
  const SequenceSlice slice{0, static_cast<int32_t>(options_.context), 0, blocks_};
  const std::array out{Slot{&w.out, Role::attn_out}};
  QUERN_TRY_VOID(calibrate(out, q_cols, [&](int64_t chunk) {
    nn::project_qkv(backend_, w, attention_, qkv_.all, y(chunk, config_.dim), positions_, cache_->layer(0),
                    cache_->shape(), {&slice, 1});
    backend_.attention(y(chunk, q_cols), qkv_.all.slice_cols(0, q_cols), cache_->layer(0), cache_->shape(),
                       attention_.shape, {&slice, 1});
    return y(chunk, q_cols);
  }));
  return for_chunks([&](int64_t chunk) {
    w.out(backend_, x(chunk), y(chunk, q_cols), /*accumulate=*/true);
    layer.ffn_norm(backend_, y(chunk, config_.dim), x(chunk));
  });
}

Tensor Walk::activate(const nn::MlpWeights& mlp, Tensor in) {
  const Tensor both = gate_up_.all.slice_rows(0, in.rows);
  const Tensor gate = both.slice_cols(0, config_.ffn_dim),
               up = both.slice_cols(config_.ffn_dim, config_.ffn_dim);
  if (mlp.gate_up)
    mlp.gate_up(backend_, both, in);
  else
    backend_.matmul_multi(std::array{mlp.gate.to(gate), mlp.up.to(up)}, in);
  backend_.silu_mul(gate, gate, up);
  return gate;
}

Result<> Walk::run_mlp(nn::MlpWeights& mlp) {
  std::vector<Slot> first{{&mlp.gate_up, Role::ffn_gate_up}};
  if (!mlp.gate_up) first = {{&mlp.gate, Role::ffn_gate}, {&mlp.up, Role::ffn_up}};
  const auto in = [&](int64_t chunk) { return y(chunk, config_.dim); };
  QUERN_TRY_VOID(calibrate(first, config_.dim, in));
  const std::array down{Slot{&mlp.down, Role::ffn_down}};
  QUERN_TRY_VOID(calibrate(down, config_.ffn_dim, [&](int64_t chunk) { return activate(mlp, in(chunk)); }));
  if (last()) return {};
  return for_chunks(
      [&](int64_t chunk) { mlp.down(backend_, x(chunk), activate(mlp, in(chunk)), /*accumulate=*/true); });
}

Result<> Walk::run_expert(nn::MlpWeights& mlp, int64_t expert, std::span<const nn::Routing> routing) {
  // The chunk's rows that go to this expert: they are adjacent in the routing.
  const auto entries = [&](int64_t chunk) {
    const nn::Routing& r = routing[static_cast<size_t>(chunk)];
    const auto [begin, end] = std::ranges::equal_range(r.expert, static_cast<int32_t>(expert));
    const auto first = static_cast<size_t>(begin - r.expert.begin());
    const auto count = static_cast<size_t>(end - begin);
    return std::pair(std::span(r.row).subspan(first, count), std::span(r.weight).subspan(first, count));
  };
  const auto in = [&](int64_t chunk) {
    const auto rows = entries(chunk).first;
    const Tensor out = gathered_.all.slice_rows(0, static_cast<int64_t>(rows.size()));
    backend_.gather_rows(out, y(chunk, config_.dim), rows);
    return out;
  };
  const std::array first{Slot{&mlp.gate, Role::expert_gate}, Slot{&mlp.up, Role::expert_up}};
  QUERN_TRY_VOID(calibrate(first, config_.dim, in, expert));
  const std::array down{Slot{&mlp.down, Role::expert_down}};
  const auto hidden = [&](int64_t chunk) {
    const Tensor rows = in(chunk);
    return rows.rows > 0 ? activate(mlp, rows) : rows;
  };
  QUERN_TRY_VOID(calibrate(down, config_.ffn_dim, hidden, expert));
  if (last()) return {};
  return for_chunks([&](int64_t chunk) {
    const auto [rows, weights] = entries(chunk);
    if (rows.empty()) return;
    const Tensor out = out_.all.slice_rows(0, static_cast<int64_t>(rows.size())).slice_cols(0, config_.dim);
    mlp.down(backend_, out, hidden(chunk));
    backend_.scatter_add(x(chunk), out, rows, weights);
  });
}

Result<> Walk::run_experts(nn::MoeWeights& moe) {
  std::vector<nn::Routing> routing;
  std::vector<float> host(static_cast<size_t>(options_.context * config_.experts));
  QUERN_TRY_VOID(for_chunks([&](int64_t chunk) {
    const Tensor logits = out_.all.slice_cols(0, config_.experts);
    backend_.matmul(logits, *moe.router, y(chunk, config_.dim));
    backend_.read(host.data(), logits);
    routing.push_back(nn::route(host, config_.experts, config_.experts_used));
  }));
  for (int64_t e = 0; e < config_.experts; ++e)
    QUERN_TRY_VOID(run_expert(moe.single[static_cast<size_t>(e)], e, routing));
  return {};
}

Result<> Walk::run_layer(DecoderLayer& layer) {
  QUERN_TRY_VOID(run_attention(layer));
  return layer.moe ? run_experts(*layer.moe) : run_mlp(layer.mlp);
}

Result<> Walk::run(std::span<const int32_t> tokens) {
  const int64_t chunks = static_cast<int64_t>(tokens.size()) / std::max<int64_t>(options_.context, 1);
  if (options_.context < 1 || chunks < 1)
    return fail(ErrorCode::invalid_argument,
                "the text has {} tokens, but a chunk of {} is needed: give a longer text or a smaller --ctx",
                tokens.size(), options_.context);
  QUERN_TRY_VOID(prepare(chunks));
  QUERN_TRY_VOID(embed(tokens));
  for (layer_ = 0; layer_ < config_.layers; ++layer_) {
    QUERN_TRY(DecoderLayer layer, load_decoder_layer(table_, backend_, config_, layer_));
    QUERN_TRY_VOID(run_layer(layer));
    layer = {};  // before what its weights point into
    weights_.clear();
  }
  return {};
}

}  // namespace

Result<> walk_layers(Backend& backend, Dense& dense, const WeightSource& source,
                     std::span<const int32_t> tokens, const LayerWalkOptions& options,
                     const std::function<Result<>(SharedInputs&)>& visit) {
  return Walk(backend, dense, source, options, visit).run(tokens);
}

Result<std::vector<const RawTensor*>> layer_matrices(const WeightSource& source) {
  QUERN_TRY(const ModelConfig config, read_model_config(source));
  QUERN_TRY(const TensorTable table, TensorTable::create(source, *find_arch(config.architecture), config));
  constexpr Role kRoles[] = {Role::attn_qkv, Role::attn_q,      Role::attn_k,    Role::attn_v,
                             Role::attn_out, Role::ffn_gate_up, Role::ffn_gate,  Role::ffn_up,
                             Role::ffn_down, Role::expert_gate, Role::expert_up, Role::expert_down};
  std::vector<const RawTensor*> matrices;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (const Role role : kRoles) {
      const int64_t experts = is_per_expert(role) ? config.experts : 1;
      for (int64_t e = 0; e < experts; ++e)
        if (const RawTensor* tensor = table.find(role, layer, e)) matrices.push_back(tensor);
    }
  }
  return matrices;
}

}  // namespace quern
