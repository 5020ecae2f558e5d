// Whole models on devices with memory of their own: their logits beside the CPU's, and the same whatever else
// is in a step.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/device_for_test.h"
#include "models/runner.h"

namespace quern {
namespace {

using testing::ModelSpec;
using testing::random_model;
using testing::random_tokens;

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

}  // namespace
}  // namespace quern
