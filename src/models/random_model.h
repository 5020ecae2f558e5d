// Small random-weight models in memory, for tests.
#pragma once

#include <cstring>
#include <map>
#include <random>

#include "formats/weight_source.h"
#include "quant/quant.h"

namespace quern::testing {

/// A WeightSource that tests put together and take apart.
class MemorySource : public WeightSource {
 public:
  const Metadata& metadata() const override { return metadata_; }
  std::span<const RawTensor> tensors() const override { return tensors_; }
  const RawTensor* find(std::string_view name) const override {
    for (const RawTensor& t : tensors_) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }
  const std::string& name() const override { return name_; }
  uint64_t bytes() const override {
    uint64_t n = 0;
    for (const RawTensor& t : tensors_) n += t.data.size();
    return n;
  }

  /// Replaces a key that is there already.
  void set(const std::string& key, Metadata::Value value) {
    values_[key] = std::move(value);
    rebuild();
  }
  void unset(const std::string& key) {
    values_.erase(key);
    rebuild();
  }
  void add(const std::string& name, std::vector<int64_t> shape, const std::vector<float>& values,
           DType dtype) {
    remove(name);
    const QuantInfo& quant = *find_quant(dtype);
    auto& bytes = storage_[name];
    bytes.resize(values.size() / quant.block * quant.bytes);
    quant.encode(values.data(), bytes.data(), values.size(), nullptr);
    tensors_.push_back({name, dtype, std::move(shape), bytes});
  }
  void remove(std::string_view name) {
    std::erase_if(tensors_, [&](const RawTensor& t) { return t.name == name; });
  }
  void rename(std::string_view from, std::string_view to) {
    for (RawTensor& t : tensors_) {
      if (t.name == from) t.name = to;
    }
  }
  RawTensor* edit(std::string_view name) { return const_cast<RawTensor*>(find(name)); }
  std::vector<float> values(std::string_view name) const {
    const RawTensor& t = *find(name);
    std::vector<float> out(static_cast<size_t>(t.elements()));
    decode_rows(t, 0, t.rows(), out.data());
    return out;
  }

 private:
  void rebuild() {
    metadata_ = {};
    for (const auto& [key, value] : values_) metadata_.add(key, value);
  }
  std::string name_ = "test.gguf";
  std::map<std::string, Metadata::Value> values_;
  Metadata metadata_;
  std::vector<RawTensor> tensors_;
  std::map<std::string, std::vector<std::byte>> storage_;
};

struct ModelSpec {
  std::string arch = "llama";
  int64_t dim = 64, ffn = 96, heads = 4, kv_heads = 2, head_dim = 16, layers = 2, vocab = 50, context = 512;
  int64_t experts = 0, experts_used = 0;
  bool tied = false;
  bool biases = false;  // on every projection that the architecture knows one for
  bool single_experts = false;
  int64_t window = 0;
  DType dtype = DType::F32;  // of the matrices
  uint32_t seed = 1;
};

namespace detail {

class Filler {
 public:
  Filler(MemorySource& source, const ModelSpec& spec) : source_(source), spec_(spec) {}
  /// Matrices keep the variance of their input. Every tensor has a stream of its own, so that models which
  /// differ in one tensor agree in the others.
  void matrix(const std::string& name, std::vector<int64_t> shape) {
    const auto cols = static_cast<float>(shape.back());
    source_.add(name, shape, normal(name, shape, 0, 1 / std::sqrt(cols)), spec_.dtype);
  }
  void gain(const std::string& name, int64_t n) {
    source_.add(name, {n}, normal(name, {n}, 1, 0.1f), DType::F32);
  }
  void bias(const std::string& name, int64_t n) {
    if (spec_.biases) source_.add(name, {n}, normal(name, {n}, 0, 0.2f), DType::F32);
  }
  std::vector<float> normal(const std::string& name, const std::vector<int64_t>& shape, float mean,
                            float deviation) {
    uint32_t seed = spec_.seed;
    for (const char c : name) seed = seed * 31 + static_cast<unsigned char>(c);
    std::mt19937 random(seed);
    std::normal_distribution<float> distribution(mean, deviation);
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    std::vector<float> values(static_cast<size_t>(n));
    for (float& v : values) v = distribution(random);
    return values;
  }

 private:
  MemorySource& source_;
  const ModelSpec& spec_;
};

inline void add_experts(MemorySource& source, const ModelSpec& s, const std::string& p, Filler& fill) {
  fill.matrix(p + "ffn_gate_inp.weight", {s.experts, s.dim});
  const std::pair<std::string, std::vector<int64_t>> kinds[] = {
      {"ffn_gate", {s.ffn, s.dim}}, {"ffn_up", {s.ffn, s.dim}}, {"ffn_down", {s.dim, s.ffn}}};
  for (const auto& [kind, shape] : kinds) {
    std::vector<float> all;
    for (int64_t e = 0; e < s.experts; ++e) {
      const std::string name = p + kind + "." + std::to_string(e) + ".weight";
      fill.matrix(name, shape);
      const auto one = source.values(name);
      all.insert(all.end(), one.begin(), one.end());
      if (!s.single_experts) source.remove(name);
    }
    // Decoded and encoded again: exact for floating types, which is what the tests of experts use.
    if (!s.single_experts)
      source.add(p + kind + "_exps.weight", {s.experts, shape[0], shape[1]}, all, s.dtype);
  }
}

inline void add_layer(MemorySource& source, const ModelSpec& s, const std::string& p, Filler& fill) {
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  fill.gain(p + "attn_norm.weight", s.dim);
  fill.gain(p + "ffn_norm.weight", s.dim);
  fill.matrix(p + "attn_output.weight", {s.dim, q});
  if (s.arch == "phi3") {
    fill.matrix(p + "attn_qkv.weight", {q + 2 * kv, s.dim});
    fill.matrix(p + "ffn_up.weight", {2 * s.ffn, s.dim});
    fill.matrix(p + "ffn_down.weight", {s.dim, s.ffn});
    return;
  }
  fill.matrix(p + "attn_q.weight", {q, s.dim});
  fill.matrix(p + "attn_k.weight", {kv, s.dim});
  fill.matrix(p + "attn_v.weight", {kv, s.dim});
  fill.bias(p + "attn_q.bias", q);
  fill.bias(p + "attn_k.bias", kv);
  fill.bias(p + "attn_v.bias", kv);
  if (s.arch == "llama") fill.bias(p + "attn_output.bias", s.dim);
  if (s.arch == "qwen3") {
    fill.gain(p + "attn_q_norm.weight", s.head_dim);
    fill.gain(p + "attn_k_norm.weight", s.head_dim);
  }
  if (s.experts > 0) return add_experts(source, s, p, fill);
  fill.matrix(p + "ffn_gate.weight", {s.ffn, s.dim});
  fill.matrix(p + "ffn_up.weight", {s.ffn, s.dim});
  fill.matrix(p + "ffn_down.weight", {s.dim, s.ffn});
}

}  // namespace detail

inline std::unique_ptr<MemorySource> random_model(const ModelSpec& s) {
  auto source = std::make_unique<MemorySource>();
  const auto integer = [&](const std::string& key, int64_t value) {
    source->set(s.arch + "." + key, static_cast<uint64_t>(value));
  };
  source->set("general.architecture", s.arch);
  integer("block_count", s.layers);
  integer("context_length", s.context);
  integer("embedding_length", s.dim);
  integer("feed_forward_length", s.ffn);
  integer("attention.head_count", s.heads);
  integer("attention.head_count_kv", s.kv_heads);
  if (s.head_dim * s.heads != s.dim) {
    integer("attention.key_length", s.head_dim);
    integer("attention.value_length", s.head_dim);
  }
  if (s.window > 0) integer("attention.sliding_window", s.window);
  if (s.experts > 0) {
    integer("expert_count", s.experts);
    integer("expert_used_count", s.experts_used);
  }
  source->set(s.arch + ".attention.layer_norm_rms_epsilon", 1e-5);

  detail::Filler fill(*source, s);
  fill.matrix("token_embd.weight", {s.vocab, s.dim});
  if (!s.tied) fill.matrix("output.weight", {s.vocab, s.dim});
  fill.gain("output_norm.weight", s.dim);
  for (int64_t i = 0; i < s.layers; ++i)
    detail::add_layer(*source, s, "blk." + std::to_string(i) + ".", fill);
  return source;
}

}  // namespace quern::testing
