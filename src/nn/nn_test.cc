#include <gtest/gtest.h>

#include <cmath>

#include "nn/moe.h"
#include "nn/rope.h"

namespace quern::nn {
namespace {

TEST(Rope, FrequenciesOfAPlainHead) {
  const RopeTable table = rope_table({.rotated = 8, .base = 10000});
  ASSERT_EQ(table.frequency.size(), 4u);
  const float expected[] = {1, 10, 100, 1000};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(table.frequency[i] / expected[i], 1, 1e-6);
  EXPECT_EQ(table.magnitude, 1);
}

TEST(Rope, LinearScalingAndDivisorsMultiply) {
  const float divisors[] = {1, 2, 4, 8};
  const RopeTable table = rope_table({.rotated = 8, .factor = 3, .divisors = divisors, .magnitude = 1.25});
  const float expected[] = {3, 60, 1200, 24000};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(table.frequency[i] / expected[i], 1, 1e-6);
  EXPECT_EQ(table.magnitude, 1.25f);
}

// Qwen2.5's documented setting: 128 of a head, base 1e6, factor 4 over 32768 tokens. The ramp by the paper's
// formula: dimension(turns) = 128 ln(32768 / (2π turns)) / (2 ln 1e6) is 23.6 for 32 turns and 39.6 for one:
// from 23 to 40.
TEST(Rope, YarnKeepsFastDimensionsAndStretchesSlowOnes) {
  const RopeTable plain = rope_table({.rotated = 128, .base = 1e6});
  const RopeTable yarn =
      rope_table({.rotated = 128, .base = 1e6, .factor = 4, .yarn = true, .original_context = 32768});
  const auto ratio = [&](size_t i) { return yarn.frequency[i] / plain.frequency[i]; };
  EXPECT_NEAR(ratio(0), 1, 1e-5);
  EXPECT_NEAR(ratio(23), 1, 1e-5);
  EXPECT_NEAR(ratio(40), 4, 1e-5);
  EXPECT_NEAR(ratio(63), 4, 1e-5);
  const double kept = 1 - (31.0 - 23) / (40 - 23);
  EXPECT_NEAR(1 / ratio(31), kept + (1 - kept) / 4, 1e-5);
  EXPECT_NEAR(yarn.magnitude, 1 + 0.1 * std::log(4.0), 1e-6);
}

TEST(Route, PicksTheLargestAndGroupsByExpert) {
  const float logits[] = {0, 3, 1, 2,   // row 0: experts 1 and 3
                          5, 1, 5, 0};  // row 1: experts 0 and 2, equal
  const Routing r = route(logits, 4, 2);
  EXPECT_EQ(r.expert, (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(r.row, (std::vector<int32_t>{1, 0, 1, 0}));
  const float first = 1 / (1 + std::exp(-1.0f));
  EXPECT_FLOAT_EQ(r.weight[0], 0.5f);
  EXPECT_FLOAT_EQ(r.weight[1], first);
  EXPECT_FLOAT_EQ(r.weight[2], 0.5f);
  EXPECT_FLOAT_EQ(r.weight[3], 1 - first);
}

TEST(Route, TiesGoToTheLowerIndexAndNanGoesLast) {
  const float nan = std::nanf("");
  const float logits[] = {1, 1, 1, nan, 0, -1};
  const Routing r = route(logits, 3, 2);
  EXPECT_EQ(r.expert, (std::vector<int32_t>{0, 1, 1, 2}));
  EXPECT_EQ(r.row, (std::vector<int32_t>{0, 0, 1, 1}));
}

}  // namespace
}  // namespace quern::nn
