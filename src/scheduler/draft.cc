#include "scheduler/draft.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace quern {
namespace {

/// Of a sequence that has not guessed yet, in steps. With kCreditPerStep it bounds the loss on a text where
/// every guess is wrong.
constexpr double kFirstCredit = 0.5;
constexpr double kCreditPerStep = 0.01;

/// Shares of right guesses after matches of 2, 3, 4–7, 8–15 and more tokens, as measured on code edits and on
/// summaries (docs/benchmarks.md).
constexpr double kFirstChance[] = {0.35, 0.45, 0.6, 0.8, 0.9};
/// How many guesses the first chances count for, and how many count at most: the latest tell most.
constexpr double kFirstWeight = 4, kMostWeight = 16;
/// Part of what was learned that a step without a guess forgets: who was wrong is tried again some time.
constexpr double kForgotten = 0.01;

/// A guess is taken to cost no less than this, of a step of one row: where rows seem to cost nothing, that
/// many wrong ones would still be felt.
constexpr double kLeastCost = 0.05;
constexpr double kLeastGain = 1e-3;

/// What a step's time is multiplied by when `rows` guesses come to its rows.
double longer(const StepCost& cost, int64_t step_rows, int64_t rows) {
  const double least = kLeastCost * static_cast<double>(rows) / static_cast<double>(step_rows);
  return std::max(cost.ratio(step_rows, rows), 1 + least);
}

}  // namespace

DraftHistory::DraftHistory() : credit_(kFirstCredit) {
  for (size_t i = 0; i < kKinds; ++i) counts_[i] = {kFirstChance[i] * kFirstWeight, kFirstWeight};
}

size_t DraftHistory::kind(int64_t length) {
  if (length < 4) return length <= 2 ? 0 : 1;
  return std::min<size_t>(kKinds - 1, static_cast<size_t>(std::bit_width(static_cast<uint64_t>(length))) - 1);
}

double DraftHistory::chance(int64_t length) const {
  const Count& count = counts_[kind(length)];
  return count.right / count.all;
}

void DraftHistory::step(int64_t length, int64_t drafted, int64_t accepted, double cost) {
  credit_ += kCreditPerStep + static_cast<double>(accepted) - cost;
  if (drafted == 0) {
    for (size_t i = 0; i < kKinds; ++i) {
      counts_[i].right += kForgotten * (kFirstChance[i] * kFirstWeight - counts_[i].right);
      counts_[i].all += kForgotten * (kFirstWeight - counts_[i].all);
    }
  }
  // The i-th guess has a match of length + i behind it. Those after the first wrong one say nothing.
  for (int64_t i = 0; i < std::min(drafted, accepted + 1); ++i) {
    Count& count = counts_[kind(length + i)];
    count.right += i < accepted ? 1 : 0;
    count.all += 1;
    if (count.all > kMostWeight) {
      count.right *= kMostWeight / count.all;
      count.all = kMostWeight;
    }
  }
}

void choose_drafts(std::span<DraftChoice> choices, const StepCost& cost, int64_t step_rows, int64_t sequences,
                   int64_t most) {
  struct Gain {
    double log_speed;
    size_t choice;
  };
  std::vector<Gain> gains;
  const auto waiting = static_cast<double>(sequences);
  const double one_row = waiting * (longer(cost, step_rows, 1) - 1);
  for (size_t c = 0; c < choices.size(); ++c) {
    DraftChoice& choice = choices[c];
    double right = 1, tokens = 1;  // expected: that all guesses so far are right; tokens that the step gives
    double credit = choice.history->credit();
    for (int64_t i = 0; i < choice.most && credit >= one_row; ++i, credit -= one_row) {
      right *= choice.history->chance(choice.match + i);
      const double gain = std::log1p(right / tokens);
      if (gain < kLeastGain) break;
      tokens += right;
      gains.push_back({gain, c});
    }
  }
  // Of one sequence each gain is smaller than the one before, so this keeps their order.
  std::ranges::stable_sort(gains, std::greater<>(), &Gain::log_speed);
  double gained = 0, best = 0;
  int64_t best_rows = 0;
  for (int64_t rows = 1; rows <= std::min(most, static_cast<int64_t>(gains.size())); ++rows) {
    gained += gains[static_cast<size_t>(rows - 1)].log_speed;
    const double net = gained - waiting * std::log(longer(cost, step_rows, rows));
    if (net > best) best = net, best_rows = rows;
  }
  if (best_rows == 0) return;
  const double row = waiting * (longer(cost, step_rows, best_rows) - 1) / static_cast<double>(best_rows);
  for (int64_t i = 0; i < best_rows; ++i) {
    DraftChoice& choice = choices[gains[static_cast<size_t>(i)].choice];
    ++choice.rows;
    choice.cost += row;
  }
}

}  // namespace quern
