// How much of a guessed continuation (prompt_lookup.h) is worth computing in a step. What is decided here
// changes how long an answer takes, never what it says.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/step_cost.h"

namespace quern {

/// What the guesses of one sequence have been worth. Costs are in steps that give it one token.
class DraftHistory {
 public:
  DraftHistory();

  /// How likely the guess after a match of `length` tokens is right.
  double chance(int64_t length) const;
  /// What may be lost now: guesses may cost a sequence little more than they have won it. This bounds what a
  /// text loses on which every guess is wrong.
  double credit() const { return credit_; }
  /// A step ended: `drafted` guesses after a match of `length` tokens, of which the first `accepted` were
  /// right, cost so much. All 0 when nothing was guessed.
  void step(int64_t length, int64_t drafted, int64_t accepted, double cost);

 private:
  static constexpr size_t kKinds = 5;  // of matches, by length
  struct Count {
    double right = 0, all = 0;
  };
  static size_t kind(int64_t length);

  std::array<Count, kKinds> counts_;
  double credit_;
};

/// One sequence that could guess.
struct DraftChoice {
  const DraftHistory* history = nullptr;
  int64_t match = 0;  // its length
  int64_t most = 0;   // guesses that could be used
  int64_t rows = 0;   // the answer: how many to compute
  double cost = 0;    // the answer: what they cost, as DraftHistory counts
};

/// Chooses each `rows` so that what all sequences of the step gain together is worth the longer step: the
/// sum of the logarithms of their speeds grows most. So nobody's guesses slow the others down for a smaller
/// gain of his own. `step_rows`: rows of the step without guesses; `sequences`: how many wait for its end;
/// `most`: guesses in all.
void choose_drafts(std::span<DraftChoice> choices, const StepCost& cost, int64_t step_rows, int64_t sequences,
                   int64_t most);

}  // namespace quern
