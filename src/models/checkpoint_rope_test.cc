// Every kind of rope that config.json can ask for, against the formulas of transformers
// (modeling_rope_utils.py) in plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "models/checkpoint.h"
#include "models/hf_checkpoint_for_test.h"
#include "models/reference_decoder.h"
#include "models/runner.h"

namespace quern {
namespace {

using namespace quern::testing;
using Json = nlohmann::ordered_json;

std::unique_ptr<WeightSource> open(const TestFolder& folder, const ModelSpec& spec, const Json& changes) {
  Json config = hf_config(spec);
  config.merge_patch(changes);
  write_checkpoint(folder, *random_model(spec), spec, config);
  auto source = open_checkpoint(folder.path(), {});
  EXPECT_TRUE(source.has_value()) << (source ? "" : source.error().message);
  return source ? *std::move(source) : nullptr;
}

/// Logits of a checkpoint with these keys, against the reference with these inverse frequencies.
void expect_rope(const ModelSpec& spec, const Json& changes, const std::vector<double>& inverse,
                 double magnitude = 1, int64_t context = 0) {
  const TestFolder folder("rope");
  const auto source = open(folder, spec, changes);
  ASSERT_NE(source, nullptr);
  const auto model = random_model(spec);
  const auto tokens = random_tokens(37, spec.vocab);
  const auto logits = Runner(*source, {.max_batch_rows = 48, .context = context}).run(tokens);
  const ReferenceRope rope{
      [&](int64_t i, int64_t p) { return static_cast<double>(p) * inverse[static_cast<size_t>(i)]; },
      magnitude, static_cast<int64_t>(inverse.size()) * 2};
  double worst = 0, scale = 0;
  size_t at = 0;
  for (const auto& row : ReferenceDecoder(*model, spec, rope).run(tokens)) {
    for (const double expected : row) {
      worst = std::max(worst, std::abs(expected - logits[at++]));
      scale = std::max(scale, std::abs(expected));
    }
  }
  EXPECT_EQ(at, logits.size());
  // Both hold keys and values as f16: one that lies between two of them may go either way, and moves logits
  // by some 1e-4.
  EXPECT_LT(worst / scale, 5e-4);
}

std::vector<double> plain(int64_t dim = 16, double base = 10000) {
  std::vector<double> inverse;
  for (int64_t i = 0; i < dim; i += 2)
    inverse.push_back(1 / std::pow(base, static_cast<double>(i) / static_cast<double>(dim)));
  return inverse;
}

TEST(CheckpointRope, None) {
  expect_rope({}, {{"rope_theta", 500000.0}}, plain(16, 5e5));
  expect_rope({}, {{"rope_scaling", {{"rope_type", "default"}}}}, plain());
  // As transformers 5 writes it: the base has moved.
  expect_rope(
      {}, {{"rope_theta", nullptr}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 777.0}}}},
      plain(16, 777));
  expect_rope({}, {{"rope_theta", nullptr}}, plain());
}

TEST(CheckpointRope, DefaultsAreTheClasses) {
  expect_rope({.ffn = 40, .experts = 3, .experts_used = 2, .single_experts = true}, {{"rope_theta", nullptr}},
              plain(16, 1e6));
}

TEST(CheckpointRope, Linear) {
  auto inverse = plain();
  for (double& f : inverse) f /= 2.5;
  for (const char* key : {"type", "rope_type"})
    expect_rope({}, {{"rope_scaling", {{key, "linear"}, {"factor", 2.5}}}}, inverse);
}

TEST(CheckpointRope, DynamicChangesNothingWithinTheContext) {
  expect_rope({}, {{"rope_scaling", {{"type", "dynamic"}, {"factor", 4.0}}}}, plain());
}

TEST(CheckpointRope, Llama3) {
  const double factor = 8, low = 1, high = 4, original = 64;
  auto inverse = plain();
  int kinds[3] = {};
  for (double& f : inverse) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > original / low) {
      f /= factor;
      ++kinds[0];
    } else if (wavelength >= original / high) {
      const double smooth = (original / wavelength - low) / (high - low);
      f = (1 - smooth) * f / factor + smooth * f;
      ++kinds[1];
    } else {
      ++kinds[2];
    }
  }
  for (const int n : kinds) EXPECT_GT(n, 0);
  expect_rope({},
              {{"rope_scaling",
                {{"rope_type", "llama3"},
                 {"factor", factor},
                 {"low_freq_factor", low},
                 {"high_freq_factor", high},
                 {"original_max_position_embeddings", 64}}}},
              inverse);
}

std::vector<double> yarn_inverse(double factor, double original, double fast, double slow,
                                 double base = 10000) {
  const int64_t dim = 16;
  const auto dimension = [&](double turns) {
    return dim * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(dimension(fast)), 0.0);
  double high = std::min(std::ceil(dimension(slow)), dim - 1.0);
  if (low == high) high += 0.001;
  auto inverse = plain(dim, base);
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double extrapolated = 1 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse[i] = inverse[i] / factor * (1 - extrapolated) + inverse[i] * extrapolated;
  }
  return inverse;
}

TEST(CheckpointRope, Yarn) {
  const Json plain_yarn = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 128}};
  expect_rope({}, {{"rope_scaling", plain_yarn}}, yarn_inverse(4, 128, 32, 1), 0.1 * std::log(4.0) + 1);
  Json betas = plain_yarn;
  betas["beta_fast"] = 8;
  betas["beta_slow"] = 0.5;
  expect_rope({}, {{"rope_scaling", betas}}, yarn_inverse(4, 128, 8, 0.5), 0.1 * std::log(4.0) + 1);
  Json said = plain_yarn;
  said["attention_factor"] = 0.75;
  expect_rope({.arch = "qwen3"}, {{"rope_scaling", said}}, yarn_inverse(4, 128, 32, 1), 0.75);
  Json scales = plain_yarn;
  scales["mscale"] = 2.0;
  scales["mscale_all_dim"] = 0.5;
  expect_rope({.arch = "qwen2", .biases = true}, {{"rope_scaling", scales}}, yarn_inverse(4, 128, 32, 1),
              (0.2 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1));
  // The factor is the ratio of the contexts where it is not said; the context is where nothing else is.
  expect_rope({}, {{"rope_scaling", {{"rope_type", "yarn"}, {"original_max_position_embeddings", 64}}}},
              yarn_inverse(8, 64, 32, 1), 0.1 * std::log(8.0) + 1);
  expect_rope({}, {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}}}, yarn_inverse(2, 512, 32, 1),
              0.1 * std::log(2.0) + 1);
}

TEST(CheckpointRope, YarnStretchesTheContext) {
  const TestFolder folder("yarn");
  const auto source = open(
      folder, {},
      {{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 512}}}});
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(read_model_config(*source)->context, 2048);
}

TEST(CheckpointRope, Longrope) {
  const std::vector<double> longer = {1, 1.2, 2, 3, 4, 6, 8, 9}, shorter = {1, 1, 1, 1.1, 1.1, 1.2, 1.3, 1.4};
  const auto by = [](const std::vector<double>& divisors) {
    auto inverse = plain();
    for (size_t i = 0; i < inverse.size(); ++i) inverse[i] /= divisors[i];
    return inverse;
  };
  const double magnitude = std::sqrt(1 + std::log(512.0 / 128) / std::log(128.0));
  for (const char* name : {"longrope", "su", "yarn"}) {
    const Json config = {
        {"original_max_position_embeddings", 128},
        {"rope_scaling", {{"type", name}, {"long_factor", longer}, {"short_factor", shorter}}}};
    expect_rope({.arch = "phi3"}, config, by(shorter), magnitude, 128);
    expect_rope({.arch = "phi3"}, config, by(longer), magnitude, 129);
    expect_rope({.arch = "phi3"}, config, by(longer), magnitude);
  }
  // As transformers 5 writes it; the factor said.
  expect_rope({.arch = "phi3"},
              {{"rope_parameters",
                {{"rope_type", "longrope"},
                 {"rope_theta", 10000.0},
                 {"original_max_position_embeddings", 128},
                 {"attention_factor", 1.5},
                 {"long_factor", longer},
                 {"short_factor", shorter}}}},
              by(longer), 1.5);
}

TEST(CheckpointRope, PartOfAHead) {
  expect_rope({.arch = "phi3"}, {{"partial_rotary_factor", 0.75}}, plain(12));
  expect_rope({.arch = "phi3"},
              {{"rope_parameters", {{"rope_theta", 500.0}, {"partial_rotary_factor", 0.5}}}}, plain(8, 500));
}

}  // namespace
}  // namespace quern
