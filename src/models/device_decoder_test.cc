// Whole models on devices with memory of their own: their logits beside the CPU's, and the same whatever else
// is in a step.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "backend/device_for_test.h"
#include "core/best_of_row_for_test.h"
#include "models/runner.h"

namespace quern {
namespace {

using testing::ModelSpec;
using testing::random_model;
using testing::random_tokens;
using testing::Runner;
using testing::TestSequence;

class DeviceDecoder : public testing::DeviceTest {
 protected:
  struct Loaded {
    std::unique_ptr<Model> model;
    std::unique_ptr<KvCache> cache;
  };
  static Loaded load(const WeightSource& source, Backend& backend) {
    Loaded l;
    auto model = load_model(source, backend, {.max_batch_rows = 64});
    EXPECT_TRUE(model.has_value()) << (model ? "" : model.error().message);
    l.model = *std::move(model);
    auto cache = KvCache::create(backend, l.model->kv_shape(16, KvType::f16), l.model->config().layers, 8);
    EXPECT_TRUE(cache.has_value()) << (cache ? "" : cache.error().message);
    l.cache = *std::move(cache);
    return l;
  }

  /// Two sequences: both prompts in one step, then tokens one by one, side by side. All logits.
  static std::vector<float> run(Loaded& l, std::span<const int32_t> tokens) {
    const std::vector<int32_t> a = {5, 2, 7}, b = {0, 6, 1};
    std::vector<float> all;
    const auto step = [&](std::vector<int32_t> part, std::vector<SequenceSlice> slices) {
      std::vector<int32_t> rows(part.size());
      std::iota(rows.begin(), rows.end(), 0);
      std::vector<float> logits(part.size() * static_cast<size_t>(l.model->config().vocab));
      const auto done = l.model->forward({part, slices, rows}, *l.cache, logits);
      EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().message);
      all.insert(all.end(), logits.begin(), logits.end());
    };
    step({tokens.begin(), tokens.begin() + 37}, {{0, 20, 0, a}, {20, 17, 0, b}});
    for (int32_t i = 0; i < 4; ++i) {
      const auto later = static_cast<size_t>(i);
      step({tokens[37 + later], tokens[41 + later]}, {{0, 1, 20 + i, a}, {1, 1, 17 + i, b}});
    }
    return all;
  }

  void expect_cpu_logits(const ModelSpec& spec, double limit) {
    const auto source = random_model(spec);
    const auto tokens = random_tokens(45, spec.vocab);
    const auto cpu = *make_cpu_backend({.threads = 1});
    Loaded on_cpu = load(*source, *cpu), on_device = load(*source, *backend_);
    const auto expected = run(on_cpu, tokens), got = run(on_device, tokens);
    ASSERT_EQ(expected.size(), got.size());
    double error = 0, power = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
      power += std::pow(static_cast<double>(expected[i]), 2);
    }
    EXPECT_LE(error, limit * power) << error / power;
  }
};
INSTANTIATE_TEST_SUITE_P(All, DeviceDecoder, ::testing::ValuesIn(testing::device_names()),
                         [](const auto& test) { return test.param; });

TEST_P(DeviceDecoder, Llama) { expect_cpu_logits({.dtype = DType::F16}, 1e-5); }
TEST_P(DeviceDecoder, TiedWithBiases) {
  expect_cpu_logits({.arch = "qwen2", .tied = true, .biases = true, .dtype = DType::F16}, 1e-5);
}
TEST_P(DeviceDecoder, FusedProjections) {
  expect_cpu_logits({.arch = "phi3", .kv_heads = 4, .dtype = DType::F16}, 1e-5);
}
TEST_P(DeviceDecoder, NormsOfHeads) { expect_cpu_logits({.arch = "qwen3", .dtype = DType::F16}, 1e-5); }
TEST_P(DeviceDecoder, Experts) {
  expect_cpu_logits({.experts = 4, .experts_used = 2, .dtype = DType::F16}, 1e-5);
}
TEST_P(DeviceDecoder, Quantized) {  // the CPU's activations are int8
  expect_cpu_logits({.dim = 256, .ffn = 256, .head_dim = 64, .dtype = DType::Q4_K}, 3e-3);
}

/// Rows whose best are enough are not read; the others are there, whichever they are.
TEST_P(DeviceDecoder, BestOfRows) {
  const ModelSpec spec{.vocab = 300, .dtype = DType::F16};
  const auto source = random_model(spec);
  Loaded l = load(*source, *backend_);
  const auto tokens = random_tokens(9, spec.vocab);
  const std::vector<int32_t> blocks = {3}, rows = {0, 1, 2, 3, 5, 6, 8};
  const SequenceSlice slice{0, 9, 0, blocks};
  std::vector<float> all(rows.size() * 300), some(rows.size() * 300, -7.0f);
  ASSERT_TRUE(l.model->forward({tokens, {&slice, 1}, rows}, *l.cache, all).has_value());
  const std::vector<float> scale = {1, 0, 2, 1, 1, 1, 0.5f};
  const std::set<size_t> refused = {2, 4};
  std::vector<BestOfRow> found(rows.size());
  std::vector<size_t> asked;
  const BestWanted best{299, scale, found, [&](size_t row) {
                          asked.push_back(row);
                          return !refused.contains(row);
                        }};
  ASSERT_TRUE(l.model->forward({tokens, {&slice, 1}, rows, &best}, *l.cache, some).has_value());
  EXPECT_EQ(asked, (std::vector<size_t>{0, 2, 3, 4, 5, 6}));
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto row = std::span(all).subspan(r * 300, 300);
    const bool read = scale[r] == 0 || refused.contains(r);
    EXPECT_EQ(found[r].count, read ? 0 : BestOfRow::kMost);
    const std::vector<float> got(some.begin() + static_cast<ptrdiff_t>(r * 300),
                                 some.begin() + static_cast<ptrdiff_t>(r * 300 + 300));
    EXPECT_EQ(got, read ? std::vector<float>(row.begin(), row.end()) : std::vector<float>(300, -7.0f)) << r;
    if (read) continue;
    const BestOfRow expected = testing::best_of_row(row.first(299), scale[r]);
    EXPECT_TRUE(std::ranges::equal(found[r].value, expected.value)) << r;
    EXPECT_TRUE(std::ranges::equal(found[r].column, expected.column)) << r;
    EXPECT_NEAR(found[r].total, expected.total, 1e-4f * expected.total) << r;
  }
}

/// Logits of a sequence that is alone and whole in its step, or in pieces behind pieces of another.
struct Logits {
  std::vector<float> alone, among;
};

Logits logits_of(const WeightSource& source, int64_t vocab, const std::shared_ptr<Backend>& backend) {
  Runner runner(source, {.max_batch_rows = 96}, backend);
  const auto tokens = random_tokens(75, vocab), others = random_tokens(75, vocab, 8);
  Logits out;
  out.alone = runner.run(tokens);
  TestSequence own, other;
  const auto step = [&](size_t of_other, size_t count) {
    const auto part = [](std::span<const int32_t> all, const TestSequence& s, size_t n) {
      return all.subspan(static_cast<size_t>(s.position), n);
    };
    const auto logits =
        runner.step({{&other, part(others, other, of_other)}, {&own, part(tokens, own, count)}});
    const auto skipped = static_cast<int64_t>(of_other) * vocab;
    out.among.insert(out.among.end(), logits.begin() + skipped, logits.end());
  };
  step(40, 3);
  step(2, 45);
  step(1, 1);
  step(1, 7);
  step(30, 19);
  return out;
}

/// With GpuOptions::batch_invariant the bits are the same; without it they are not, so that this would show.
TEST_P(DeviceDecoder, BatchInvariant) {
  const ModelSpec specs[] = {
      {.dim = 256, .ffn = 512, .kv_heads = 1, .head_dim = 64, .layers = 1, .dtype = DType::Q4_K},
      {.ffn = 512, .layers = 1, .window = 21, .dtype = DType::F16},
      {.layers = 1, .experts = 4, .experts_used = 2, .dtype = DType::F16},
  };
  const auto invariant = testing::device_backend(GetParam(), {.batch_invariant = true});
  ASSERT_TRUE(invariant.has_value()) << invariant.error().message;
  for (const ModelSpec& spec : specs) {
    const auto source = random_model(spec);
    const Logits plain = logits_of(*source, spec.vocab, backend_);
    EXPECT_NE(plain.alone, plain.among) << spec.arch;
    const Logits same = logits_of(*source, spec.vocab, *invariant);
    ASSERT_EQ(same.alone.size(), same.among.size());
    EXPECT_TRUE(same.alone == same.among)
        << spec.arch << ", window " << spec.window << ", experts " << spec.experts;
  }
}

}  // namespace
}  // namespace quern
