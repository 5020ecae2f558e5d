#include "make_model/shape.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

namespace quern::make_model {
namespace {

constexpr auto kSpm = VocabularyKind::spm;
constexpr auto kBpe = VocabularyKind::bpe;

/// Frequencies divided as Llama 3.1 does: by 8 where the wavelength exceeds 8192 positions, by 1 where it is
/// under a quarter of that, between them in proportion.
std::vector<float> llama3_factors(double base, int64_t head_dim) {
  constexpr double kFactor = 8, kLow = 1, kHigh = 4, kContext = 8192;
  std::vector<float> factors;
  for (int64_t i = 0; i < head_dim; i += 2) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(base, static_cast<double>(i) / static_cast<double>(head_dim));
    double factor = 1;
    if (wavelength > kContext / kLow) {
      factor = kFactor;
    } else if (wavelength >= kContext / kHigh) {
      const double smooth = (kContext / wavelength - kLow) / (kHigh - kLow);
      factor = 1 / ((1 - smooth) / kFactor + smooth);
    }
    factors.push_back(static_cast<float>(factor));
  }
  return factors;
}

/// From 1 up to `last`, slowly first: the course that Phi-3's factors take.
std::vector<float> rising_factors(int64_t n, double last) {
  std::vector<float> factors;
  for (int64_t i = 0; i < n; ++i) {
    const double t = static_cast<double>(i) / static_cast<double>(n - 1);
    factors.push_back(static_cast<float>(1 + (last - 1) * t * t));
  }
  return factors;
}

class Planner {
 public:
  Planner(const Shape& shape, const Layout& layout) : s_(shape), layout_(layout) {}
  std::vector<Tensor> run();

 private:
  void add(std::string name, std::vector<int64_t> shape, Values values) {
    std::string stream = name;
    if (!layout_.distinct && name.starts_with("blk.")) stream = name.substr(name.find('.', 4) + 1);
    tensors_.push_back({std::move(name), std::move(shape), values, {}, std::move(stream)});
  }
  void given(std::string name, std::vector<float> values) {
    const auto n = static_cast<int64_t>(values.size());
    tensors_.push_back({std::move(name), {n}, Values::given, std::move(values), {}});
  }
  void attention(const std::string& p);
  void mlp(const std::string& p);
  void experts(const std::string& p);

  const Shape& s_;
  const Layout& layout_;
  std::vector<Tensor> tensors_;
};

void Planner::attention(const std::string& p) {
  const int64_t q = s_.heads * s_.head_dim;
  const int64_t kv = s_.kv_heads * s_.head_dim;
  add(p + "attn_norm.weight", {s_.dim}, Values::norm);
  if (s_.architecture == "phi3") {
    add(p + "attn_qkv.weight", {q + 2 * kv, s_.dim}, Values::matrix);
  } else {
    add(p + "attn_q.weight", {q, s_.dim}, Values::matrix);
    add(p + "attn_k.weight", {kv, s_.dim}, Values::matrix);
    add(p + "attn_v.weight", {kv, s_.dim}, Values::matrix);
  }
  if (s_.architecture == "qwen2") {
    add(p + "attn_q.bias", {q}, Values::bias);
    add(p + "attn_k.bias", {kv}, Values::bias);
    add(p + "attn_v.bias", {kv}, Values::bias);
  }
  if (s_.architecture == "qwen3") {
    add(p + "attn_q_norm.weight", {s_.head_dim}, Values::norm);
    add(p + "attn_k_norm.weight", {s_.head_dim}, Values::norm);
  }
  add(p + "attn_output.weight", {s_.dim, q}, Values::matrix);
}

void Planner::experts(const std::string& p) {
  const int64_t n = s_.extras.experts;
  add(p + "ffn_gate_inp.weight", {n, s_.dim}, Values::router);
  for (const char* name : {"ffn_gate", "ffn_up", "ffn_down"}) {
    const bool down = std::string_view(name) == "ffn_down";
    const int64_t rows = down ? s_.dim : s_.ffn;
    const int64_t cols = down ? s_.ffn : s_.dim;
    if (!s_.extras.tensor_per_expert) {
      add(fmt::format("{}{}_exps.weight", p, name), {n, rows, cols}, Values::matrix);
      continue;
    }
    for (int64_t e = 0; e < n; ++e) {
      add(fmt::format("{}{}_exps.weight", p, name), {rows, cols}, Values::matrix);
      tensors_.back().name = fmt::format("{}{}.{}.weight", p, name, e);
      tensors_.back().first_row = e * rows;  // the numbers of the stacked form
    }
  }
}

void Planner::mlp(const std::string& p) {
  add(p + "ffn_norm.weight", {s_.dim}, Values::norm);
  if (s_.extras.experts != 0) return experts(p);
  if (s_.architecture == "phi3") {
    add(p + "ffn_up.weight", {2 * s_.ffn, s_.dim}, Values::matrix);
  } else {
    add(p + "ffn_gate.weight", {s_.ffn, s_.dim}, Values::matrix);
    add(p + "ffn_up.weight", {s_.ffn, s_.dim}, Values::matrix);
  }
  add(p + "ffn_down.weight", {s_.dim, s_.ffn}, Values::matrix);
}

std::vector<Tensor> Planner::run() {
  add("token_embd.weight", {layout_.vocabulary, s_.dim}, Values::matrix);
  add("output_norm.weight", {s_.dim}, Values::norm);
  if (!layout_.tied) add("output.weight", {layout_.vocabulary, s_.dim}, Values::matrix);
  if (s_.extras.llama3_rope) given("rope_freqs.weight", llama3_factors(s_.rope_base, s_.head_dim));
  if (s_.extras.original_context != 0) {
    given("rope_factors_long.weight", rising_factors(s_.head_dim / 2, 60));
    given("rope_factors_short.weight", rising_factors(s_.head_dim / 2, 2));
  }
  for (int64_t layer = 0; layer < s_.layers; ++layer) {
    const std::string p = fmt::format("blk.{}.", layer);
    attention(p);
    mlp(p);
  }
  return std::move(tensors_);
}

}  // namespace

const std::vector<Shape>& shapes() {
  // name, architecture, dim, ffn, heads, kv heads, head size, layers, rope base, context, eps, vocabulary
  static const std::vector<Shape> all = {
      {"nano", "llama", 64, 128, 2, 1, 32, 1, 1e4, 2048, 1e-5, kSpm, 512, {}},
      {"tiny", "llama", 256, 768, 4, 2, 64, 4, 1e4, 2048, 1e-5, kSpm, 2048, {}},
      {"odd-tiny", "llama", 480, 1000, 6, 2, 80, 3, 1e4, 2048, 1e-5, kSpm, 1003, {}},
      {"mistral-swa-tiny",
       "llama",
       512,
       1536,
       8,
       2,
       64,
       4,
       1e4,
       4096,
       1e-5,
       kSpm,
       2048,
       {.sliding_window = 64}},
      {"llama3-tiny", "llama", 512, 1536, 8, 2, 64, 4, 5e5, 131072, 1e-5, kBpe, 4096, {.llama3_rope = true}},
      {"mixtral-tiny", "llama", 512, 1024, 8, 4, 64, 4, 1e6, 4096, 1e-5, kSpm, 2048, {.experts = 8}},
      {"mixtral-old-tiny",
       "llama",
       512,
       1024,
       8,
       4,
       64,
       4,
       1e6,
       4096,
       1e-5,
       kSpm,
       2048,
       {.experts = 8, .tensor_per_expert = true}},
      {"qwen2-tiny", "qwen2", 512, 1536, 8, 2, 64, 6, 1e6, 4096, 1e-6, kBpe, 4096, {}},
      {"qwen3-tiny", "qwen3", 512, 1536, 8, 2, 128, 4, 1e6, 4096, 1e-6, kBpe, 4096, {}},
      {"phi3-tiny", "phi3", 768, 2048, 8, 8, 96, 4, 1e4, 4096, 1e-5, kSpm, 2048, {}},
      {"phi3-long-tiny",
       "phi3",
       768,
       2048,
       8,
       8,
       96,
       4,
       1e4,
       131072,
       1e-5,
       kSpm,
       2048,
       {.original_context = 4096}},
      {"tinyllama-1b", "llama", 2048, 5632, 32, 4, 64, 22, 1e4, 2048, 1e-5, kSpm, 32000, {}},
      {"mistral-7b", "llama", 4096, 14336, 32, 8, 128, 32, 1e6, 32768, 1e-5, kSpm, 32000, {}},
      {"llama2-7b", "llama", 4096, 11008, 32, 32, 128, 32, 1e4, 4096, 1e-5, kSpm, 32000, {}},
      {"llama31-8b",
       "llama",
       4096,
       14336,
       32,
       8,
       128,
       32,
       5e5,
       131072,
       1e-5,
       kBpe,
       128256,
       {.llama3_rope = true}},
      {"phi3-mini", "phi3", 3072, 8192, 32, 32, 96, 32, 1e4, 4096, 1e-5, kSpm, 32064, {}},
  };
  return all;
}

const Shape* find_shape(std::string_view name) {
  for (const Shape& shape : shapes()) {
    if (shape.name == name) return &shape;
  }
  return nullptr;
}

std::vector<Tensor> tensors_of(const Shape& shape, const Layout& layout) {
  return Planner(shape, layout).run();
}

}  // namespace quern::make_model
