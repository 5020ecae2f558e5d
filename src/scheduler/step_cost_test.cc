#include "scheduler/step_cost.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace quern {
namespace {

TEST(StepCost, LearnsWhatRowsCost) {
  for (const double slope : {0.02, 0.3, 0.9}) {
    StepCost cost;
    std::mt19937 random(1);
    for (int i = 0; i < 400; ++i) {
      const auto rows = static_cast<int64_t>(1 + random() % 4);
      cost.measured(rows, 0.05 * (1 + slope * static_cast<double>(rows - 1)));
    }
    EXPECT_NEAR(cost.ratio(1, 1), 1 + slope, 0.05 * (1 + slope));
    EXPECT_NEAR(cost.ratio(1, 3), 1 + 3 * slope, 0.05 * (1 + 3 * slope));
    EXPECT_NEAR(cost.ratio(2, 2), (1 + 3 * slope) / (1 + slope), 0.1);
  }
}

TEST(StepCost, WhatAllStepsHaveInCommonIsNotTheRows) {
  StepCost cost;
  for (int i = 0; i < 300; ++i) cost.measured(1 + i % 3, 0.01 * (1 + 0.2 * (i % 3)));
  const double before = cost.ratio(1, 2);
  // The context has become long: every step takes ten times as long, and there were only steps of one row.
  for (int i = 0; i < 300; ++i) cost.measured(1, 0.1);
  EXPECT_NEAR(cost.ratio(1, 2), before, 1e-9);
  for (int i = 0; i < 100; ++i) cost.measured(1 + i % 3, 0.1 * (1 + 0.2 * (i % 3)));
  EXPECT_NEAR(cost.ratio(1, 2), 1.4, 0.1);
}

TEST(StepCost, OneSlowStepSaysLittle) {
  StepCost cost;
  for (int i = 0; i < 300; ++i) cost.measured(1 + i % 3, 0.01 * (1 + 0.2 * (i % 3)));
  const double before = cost.ratio(1, 1);
  cost.measured(2, 100);
  EXPECT_LT(cost.ratio(1, 1), 1.2 * before);
  for (const double absurd : {0.0, -1.0, std::nan("")}) cost.measured(2, absurd);
  EXPECT_LT(cost.ratio(1, 1), 1.2 * before);
}

TEST(StepCost, WhatWasNotSeenFollowsItsNeighbour) {
  StepCost cost;
  for (int i = 0; i < 200; ++i) cost.measured(1 + i % 2, i % 2 == 0 ? 0.01 : 0.018);
  EXPECT_NEAR(cost.ratio(1, 3), 1 + 3 * 0.8, 0.3) << "each row costs what the second did";
  for (int i = 0; i < 2000; ++i) cost.measured(1, 0.01);
  EXPECT_LT(cost.ratio(1, 3), 1.5) << "forgotten: what was dear is tried again some time";
}

TEST(StepCost, ManyRowsCostInProportion) {
  StepCost cost;
  EXPECT_NEAR(cost.ratio(256, 4), 260.0 / 256, 1e-9);
  EXPECT_GT(cost.ratio(62, 10), 1);
  EXPECT_EQ(StepCost(0.5).ratio(1, 1), 1.5);
}

}  // namespace
}  // namespace quern
