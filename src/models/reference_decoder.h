// The decoder once more, for tests: plain loops in double precision over decoded weights, sharing no code
// with the model. Only keys and values are rounded to f16, as the cache holds them.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/half.h"
#include "models/random_model.h"

namespace quern::testing {

using Row = std::vector<double>;

/// What a test's spec cannot say: angle of frequency i at position p, and the factor on cos and sin.
struct ReferenceRope {
  std::function<double(int64_t i, int64_t position)> angle;
  double magnitude = 1;
  int64_t rotated = 0;  // 0: the whole head
};

inline ReferenceRope plain_rope(int64_t head_dim, double base = 10000) {
  return {[=](int64_t i, int64_t p) {
    return static_cast<double>(p) *
           std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }};
}

class ReferenceDecoder {
 public:
  ReferenceDecoder(const MemorySource& source, ModelSpec spec, ReferenceRope rope)
      : source_(source), s_(std::move(spec)), rope_(std::move(rope)) {
    if (rope_.rotated == 0) rope_.rotated = s_.head_dim;
  }

  /// Logits of every position.
  std::vector<Row> run(std::span<const int32_t> tokens) const {
    std::vector<Row> x;
    const auto embedding = source_.values("token_embd.weight");
    for (const int32_t t : tokens) {
      const auto* row = embedding.data() + int64_t{t} * s_.dim;
      x.emplace_back(row, row + s_.dim);
    }
    for (int64_t i = 0; i < s_.layers; ++i) layer("blk." + std::to_string(i) + ".", x);
    std::vector<Row> logits;
    for (const Row& row : x)
      logits.push_back(linear(s_.tied ? "token_embd" : "output", norm("output_norm.weight", row)));
    return logits;
  }

 private:
  Row linear(const std::string& name, const Row& in) const {
    return matrix(name + ".weight", name + ".bias", in);
  }

  Row matrix(const std::string& weight, const std::string& bias, const Row& in, int64_t first = 0,
             int64_t count = -1) const {
    const auto w = source_.values(weight);
    const auto cols = static_cast<int64_t>(in.size());
    if (count < 0) count = static_cast<int64_t>(w.size()) / cols;
    Row out(static_cast<size_t>(count), 0.0);
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t k = 0; k < cols; ++k)
        out[static_cast<size_t>(n)] +=
            double{w[static_cast<size_t>((first + n) * cols + k)]} * in[static_cast<size_t>(k)];
    }
    if (source_.find(bias) != nullptr) {
      const auto b = source_.values(bias);
      for (int64_t n = 0; n < count; ++n) out[static_cast<size_t>(n)] += b[static_cast<size_t>(first + n)];
    }
    return out;
  }

  Row norm(const std::string& name, const Row& in) const {
    const auto gain = source_.values(name);
    Row out = in;
    for (size_t first = 0; first < in.size(); first += gain.size()) {
      double squares = 0;
      for (size_t i = 0; i < gain.size(); ++i) squares += in[first + i] * in[first + i];
      const double scale = 1 / std::sqrt(squares / static_cast<double>(gain.size()) + 1e-5);
      for (size_t i = 0; i < gain.size(); ++i) out[first + i] = in[first + i] * scale * gain[i];
    }
    return out;
  }

  void turn(Row& heads, int64_t position) const {
    const int64_t half = rope_.rotated / 2;
    for (int64_t h = 0; h < static_cast<int64_t>(heads.size()); h += s_.head_dim) {
      for (int64_t i = 0; i < half; ++i) {
        const bool pairs = s_.arch == "llama";
        double& a = heads[static_cast<size_t>(h + (pairs ? 2 * i : i))];
        double& b = heads[static_cast<size_t>(h + (pairs ? 2 * i + 1 : i + half))];
        const double angle = rope_.angle(i, position);
        const double c = std::cos(angle) * rope_.magnitude, s = std::sin(angle) * rope_.magnitude;
        const double ra = a * c - b * s, rb = a * s + b * c;
        a = ra;
        b = rb;
      }
    }
  }

  static void round_to_f16(Row& row) {
    for (double& v : row) v = f16_to_f32(f32_to_f16(static_cast<float>(v)));
  }

  void project(const std::string& p, const Row& in, Row& q, Row& k, Row& v) const {
    if (s_.arch == "phi3") {
      const Row all = linear(p + "attn_qkv", in);
      const auto q_end = all.begin() + s_.heads * s_.head_dim, k_end = q_end + s_.kv_heads * s_.head_dim;
      q.assign(all.begin(), q_end);
      k.assign(q_end, k_end);
      v.assign(k_end, all.end());
      return;
    }
    q = linear(p + "attn_q", in);
    k = linear(p + "attn_k", in);
    v = linear(p + "attn_v", in);
    if (s_.arch == "qwen3") {
      q = norm(p + "attn_q_norm.weight", q);
      k = norm(p + "attn_k_norm.weight", k);
    }
  }

  Row attend(const Row& q, const std::vector<Row>& keys, const std::vector<Row>& values,
             int64_t position) const {
    Row out(q.size(), 0.0);
    const int64_t group = s_.heads / s_.kv_heads;
    const int64_t first = s_.window > 0 ? std::max<int64_t>(0, position - s_.window + 1) : 0;
    for (int64_t h = 0; h < s_.heads; ++h) {
      const int64_t at = h * s_.head_dim, kv_at = h / group * s_.head_dim;
      Row weight;
      double sum = 0;
      for (int64_t j = first; j <= position; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < s_.head_dim; ++d)
          dot +=
              q[static_cast<size_t>(at + d)] * keys[static_cast<size_t>(j)][static_cast<size_t>(kv_at + d)];
        weight.push_back(std::exp(dot / std::sqrt(static_cast<double>(s_.head_dim))));
        sum += weight.back();
      }
      for (int64_t j = first; j <= position; ++j) {
        for (int64_t d = 0; d < s_.head_dim; ++d)
          out[static_cast<size_t>(at + d)] += weight[static_cast<size_t>(j - first)] / sum *
                                              values[static_cast<size_t>(j)][static_cast<size_t>(kv_at + d)];
      }
    }
    return out;
  }

  static Row gated(const Row& gate, const Row& up) {
    Row out(gate.size());
    for (size_t i = 0; i < gate.size(); ++i) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    return out;
  }

  Row expert(const std::string& p, int64_t e, const Row& in) const {
    const bool single = source_.find(p + "ffn_gate_exps.weight") == nullptr;
    const auto part = [&](const std::string& kind, const Row& x, int64_t rows) {
      if (single) return linear(p + kind + "." + std::to_string(e), x);
      return matrix(p + kind + "_exps.weight", "", x, e * rows, rows);
    };
    return part("ffn_down", gated(part("ffn_gate", in, s_.ffn), part("ffn_up", in, s_.ffn)), s_.dim);
  }

  Row feed_forward(const std::string& p, const Row& in) const {
    if (s_.arch == "phi3") {
      const Row both = linear(p + "ffn_up", in);
      return linear(p + "ffn_down",
                    gated(Row(both.begin(), both.begin() + s_.ffn), Row(both.begin() + s_.ffn, both.end())));
    }
    if (s_.experts == 0)
      return linear(p + "ffn_down", gated(linear(p + "ffn_gate", in), linear(p + "ffn_up", in)));
    // Softmax over all experts, the largest kept, renormalized: as Mixtral's paper has it.
    Row probability = linear(p + "ffn_gate_inp", in);
    for (double& v : probability) v = std::exp(v);
    Row sorted = probability;
    std::ranges::sort(sorted, std::greater<>());
    const double least = sorted[static_cast<size_t>(s_.experts_used - 1)];
    double sum = 0;
    for (const double v : probability) sum += v >= least ? v : 0;
    Row out(in.size(), 0.0);
    for (int64_t e = 0; e < s_.experts; ++e) {
      const double v = probability[static_cast<size_t>(e)];
      if (v < least) continue;
      const Row y = expert(p, e, in);
      for (size_t i = 0; i < out.size(); ++i) out[i] += v / sum * y[i];
    }
    return out;
  }

  void layer(const std::string& p, std::vector<Row>& x) const {
    std::vector<Row> keys, values;
    for (size_t t = 0; t < x.size(); ++t) {
      Row q, k, v;
      project(p, norm(p + "attn_norm.weight", x[t]), q, k, v);
      turn(q, static_cast<int64_t>(t));
      turn(k, static_cast<int64_t>(t));
      round_to_f16(k);
      round_to_f16(v);
      keys.push_back(k);
      values.push_back(v);
      const Row out = linear(p + "attn_output", attend(q, keys, values, static_cast<int64_t>(t)));
      for (size_t i = 0; i < out.size(); ++i) x[t][i] += out[i];
    }
    for (Row& row : x) {
      const Row out = feed_forward(p, norm(p + "ffn_norm.weight", row));
      for (size_t i = 0; i < out.size(); ++i) row[i] += out[i];
    }
  }

  const MemorySource& source_;
  ModelSpec s_;
  ReferenceRope rope_;
};

}  // namespace quern::testing
