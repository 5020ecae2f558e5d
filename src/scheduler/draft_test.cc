#include "scheduler/draft.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "scheduler/scheduler.h"

namespace quern {
namespace {

/// A history that has seen `right` of `all` guesses after matches of `length` come true.
DraftHistory history(int64_t length, int right, int all) {
  DraftHistory result;
  for (int i = 0; i < all; ++i) result.step(length, 1, i < right ? 1 : 0, 0);
  return result;
}

TEST(Draft, ChancesFollowWhatHappened) {
  const DraftHistory fresh;
  EXPECT_LT(fresh.chance(2), fresh.chance(4));
  EXPECT_LT(fresh.chance(8), fresh.chance(16));
  EXPECT_EQ(fresh.chance(16), fresh.chance(1000));
  DraftHistory wrong = history(5, 0, 30);
  EXPECT_LT(wrong.chance(5), 0.1);
  EXPECT_EQ(wrong.chance(3), fresh.chance(3)) << "of other lengths nothing is known";
  EXPECT_GT(history(5, 30, 30).chance(5), 0.9);
  for (int i = 0; i < 1000; ++i) wrong.step(0, 0, 0, 0);
  EXPECT_NEAR(wrong.chance(5), fresh.chance(5), 0.01) << "tried again some time";
}

TEST(Draft, GuessesAfterTheFirstWrongOneSayNothing) {
  DraftHistory some;
  const DraftHistory fresh;
  some.step(2, 8, 1, 0);  // matches of 2 and 3 tokens: right, wrong; the other six were not reached
  EXPECT_GT(some.chance(2), fresh.chance(2));
  EXPECT_LT(some.chance(3), fresh.chance(3));
  EXPECT_EQ(some.chance(8), fresh.chance(8));
}

DraftChoice choice_of(const DraftHistory& history, int64_t match, int64_t most = 100) {
  return {.history = &history, .match = match, .most = most};
}

TEST(Draft, MoreRowsWhereTheyAreCheapAndSure) {
  const DraftHistory sure = history(30, 40, 40), fresh;
  const auto rows = [](const DraftHistory& history, int64_t match, double cost, int64_t most = 100) {
    DraftChoice choice = choice_of(history, match, most);
    choose_drafts({&choice, 1}, StepCost(cost), 1, 1, 32);
    return choice.rows;
  };
  EXPECT_GE(rows(sure, 30, 0.001), 20);
  EXPECT_EQ(rows(sure, 30, 0.001, 5), 5) << "as many as can be used";
  EXPECT_GE(rows(sure, 30, 0.2), 8);
  EXPECT_GE(rows(fresh, 3, 0.1), 1);
  EXPECT_EQ(rows(fresh, 3, 0.6), 0);
  EXPECT_EQ(rows(history(3, 0, 20), 3, 0.1), 0);
  EXPECT_LE(rows(fresh, 30, 0.2), 2) << "a first guess risks no more than the first credit";
}

// With rows that cost their full share, a step with guesses is longer for everybody.
TEST(Draft, NobodysGuessesSlowTheOthersDown) {
  const DraftHistory sure = history(30, 40, 40), fresh;
  std::vector<DraftChoice> choices = {choice_of(sure, 30), choice_of(fresh, 3)};
  choose_drafts(choices, StepCost(0.95), 10, 10, 32);
  EXPECT_EQ(choices[0].rows, 0);
  EXPECT_EQ(choices[1].rows, 0);
  choose_drafts(choices, StepCost(0.02), 10, 10, 32);
  EXPECT_GT(choices[0].rows, 0);
  EXPECT_GT(choices[0].rows, choices[1].rows);
  EXPECT_GT(choices[0].cost, 0);
}

/// Plays texts through a scheduler; what a step costs is the cost model's own number.
struct Play {
  double cost = 0;
  DraftTotals drafts;
};

Play play(std::span<const int32_t> text, size_t prompt, double row_cost) {
  const auto length = static_cast<int64_t>(text.size());
  Scheduler scheduler({.context = length + 64, .chunk_rows = length, .draft_cost = row_cost}, length + 64, 1,
                      false);
  EXPECT_TRUE(scheduler.submit(1, {text.begin(), text.begin() + static_cast<ptrdiff_t>(prompt)}, {}, 0));
  Play result;
  for (size_t done = prompt; done < text.size();) {
    const Plan plan = scheduler.plan(0);
    if (plan.slices.size() != 1) {
      ADD_FAILURE();
      break;
    }
    scheduler.commit(plan);
    const auto guesses = plan.slices[0].tokens.last(static_cast<size_t>(plan.slices[0].drafted));
    size_t count = 1;
    while (count <= guesses.size() && done + count < text.size() &&
           guesses[count - 1] == text[done + count - 1])
      ++count;
    scheduler.append(1, text.subspan(done, count));
    if (done > prompt) result.cost += 1 + row_cost * static_cast<double>(guesses.size());
    done += count;
  }
  result.drafts = scheduler.drafts();
  return result;
}

/// Every three tokens in a row of `kinds` once: after any two, what followed them before never comes again.
std::vector<int32_t> never_again(int32_t kinds) {
  std::vector<int32_t> text, word(4);
  const auto extend = [&](const auto& self, size_t length, size_t period) -> void {
    if (length > 3) {
      if (3 % period == 0)
        text.insert(text.end(), word.begin() + 1, word.begin() + 1 + static_cast<ptrdiff_t>(period));
      return;
    }
    const int32_t same = word[length - period];
    for (int32_t token = same; token < kinds; ++token) {
      word[length] = token;
      self(self, length + 1, token == same ? period : length);
    }
  };
  extend(extend, 1, 1);
  return text;
}

TEST(Draft, WhatIsAlwaysWrongCostsLittle) {
  const std::vector<int32_t> text = never_again(14);
  ASSERT_GT(text.size(), 2500u);
  for (const double row_cost : {0.02, 0.1, 0.25, 0.5})
    for (const size_t answer : {40u, 200u, 2000u}) {
      const Play played = play(std::span(text).first(300 + answer), 300, row_cost);
      EXPECT_EQ(played.drafts.accepted, 0u);
      EXPECT_LT(played.cost, 1.03 * static_cast<double>(answer)) << row_cost << " " << answer;
    }
}

TEST(Draft, ATextThatRepeatsItsPromptCostsAFraction) {
  // 400 different tokens, then the same with every 20th another one.
  std::vector<int32_t> text(400);
  std::iota(text.begin(), text.end(), 0);
  for (int32_t i = 0; i < 400; ++i) text.push_back(i % 20 == 19 ? 10000 + i : i);
  EXPECT_LT(play(text, 400, 0.1).cost, 400 / 3.0);
  EXPECT_LT(play(text, 400, 0.25).cost, 400 / 2.0);
  EXPECT_LE(play(text, 400, 0.9).cost, 400 * 1.01);
}

}  // namespace
}  // namespace quern
