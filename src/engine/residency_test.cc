#include "engine/residency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace quern {
namespace {

constexpr double kPatience = 1;

RoomDecision decide(const std::vector<Resident>& residents, Newcomer newcomer, uint64_t limit,
                    double now = 100) {
  return make_room(residents, newcomer, limit, now, kPatience);
}

TEST(Residency, LoadsWhatFits) {
  EXPECT_EQ(decide({}, {.bytes = 10}, 10).action, RoomAction::load);
  EXPECT_EQ(decide({{.bytes = 4}, {.bytes = 4}}, {.bytes = 2}, 10).action, RoomAction::load);
  EXPECT_EQ(decide({}, {.bytes = 11}, 10).action, RoomAction::refuse);
  EXPECT_EQ(decide({}, {.bytes = UINT64_MAX}, UINT64_MAX).action, RoomAction::load);
}

TEST(Residency, AheadOfNeedNobodyGoes) {
  EXPECT_EQ(decide({{.bytes = 9, .idle = true}}, {.bytes = 2}, 10).action, RoomAction::wait);
}

TEST(Residency, TheLeastRecentlyUsedIdleModelGoesFirst) {
  const std::vector<Resident> models = {{.bytes = 4, .idle = true, .last_used = 30},
                                        {.bytes = 4, .idle = false, .last_used = 10},
                                        {.bytes = 2, .idle = true, .last_used = 20}};
  const RoomDecision decision = decide(models, {.bytes = 4, .wanted_since = 99.9}, 10);
  EXPECT_EQ(decision.action, RoomAction::unload);
  EXPECT_EQ(decision.victim, 2u);
}

TEST(Residency, BusyModelsAreDrainedAfterAWhile) {
  std::vector<Resident> models = {{.bytes = 5, .last_used = 99, .ready_since = 10},
                                  {.bytes = 5, .last_used = 98, .ready_since = 99.5}};
  EXPECT_EQ(decide(models, {.bytes = 5, .wanted_since = 99.5}, 10).action, RoomAction::wait) << "not yet";
  RoomDecision decision = decide(models, {.bytes = 5, .wanted_since = 98}, 10);
  EXPECT_EQ(decision.action, RoomAction::drain);
  EXPECT_EQ(decision.victim, 0u) << "the other one has just come";
  models[0].draining = true;
  EXPECT_EQ(decide(models, {.bytes = 5, .wanted_since = 98}, 10).action, RoomAction::wait) << "one is enough";
  models[0].idle = true;
  decision = decide(models, {.bytes = 5, .wanted_since = 98}, 10);
  EXPECT_EQ(decision.action, RoomAction::unload);
  EXPECT_EQ(decision.victim, 0u);
  models[0].idle = false;
  decision = decide(models, {.bytes = 8, .wanted_since = 98}, 10, 101);
  EXPECT_EQ(decision.action, RoomAction::drain);
  EXPECT_EQ(decision.victim, 1u) << "both must go for this one";
}

/// Whatever the sizes and the order, following the decisions ends with the newcomer in memory and never goes
/// over the limit.
TEST(Residency, FollowingTheDecisionsAlwaysMakesRoom) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const uint64_t limit = 100;
    std::vector<Resident> models;
    double now = 0;
    for (int step = 0; step < 50; ++step) {
      const Newcomer newcomer{.bytes = 1 + random() % limit, .wanted_since = now};
      for (int tries = 0;; ++tries) {
        ASSERT_LT(tries, 100);
        const RoomDecision decision = make_room(models, newcomer, limit, now, kPatience);
        ASSERT_NE(decision.action, RoomAction::refuse);
        if (decision.action == RoomAction::load) break;
        if (decision.action == RoomAction::unload) {
          ASSERT_TRUE(models.at(decision.victim).idle);
          models.erase(models.begin() + static_cast<long>(decision.victim));
        } else if (decision.action == RoomAction::drain) {
          ASSERT_FALSE(models.at(decision.victim).draining);
          models[decision.victim].draining = true;
        }
        now += 0.3;
        for (Resident& r : models) r.idle = r.idle || (r.draining && random() % 3 == 0);
      }
      models.push_back(
          {.bytes = newcomer.bytes, .idle = random() % 2 == 0, .last_used = now, .ready_since = now});
      uint64_t used = 0;
      for (const Resident& r : models) used += r.bytes;
      ASSERT_LE(used, limit);
    }
  }
}

}  // namespace
}  // namespace quern
