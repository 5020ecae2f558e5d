// How much longer a step takes with more rows, learned from the steps that ran.
#pragma once

#include <array>
#include <cstdint>

namespace quern {

/// A step reads all weights once, so its first rows are cheap where memory is the limit and cost their full
/// share where arithmetic is; which of the two depends on the machine, the quantization and the model, so it
/// is measured. What all steps have in common (the context's length, a busy machine) is kept apart from what
/// tells them apart (their rows).
class StepCost {
 public:
  /// Steps of more rows than these are taken to cost in proportion to them.
  static constexpr int64_t kMostRows = 64;

  /// `fixed`: not 0 for what each further row is taken to cost, as a part of a step of one: nothing is
  /// learned then.
  explicit StepCost(double fixed = 0);
  void measured(int64_t rows, double seconds);
  /// Time of a step of rows + more rows over that of one of `rows`.
  double ratio(int64_t rows, int64_t more) const;

 private:
  /// Steps of one number of rows.
  struct Seen {
    double log_times = 0;  // logarithm of: how many times as long as a step of one row
    double weight = 0;     // how often seen; what has not been seen for long is forgotten
  };
  bool known(int64_t rows) const;
  double log_times(int64_t rows) const;

  std::array<Seen, kMostRows + 1> seen_;
  double scale_ = 0;  // logarithm of the seconds that a step of one row takes now
  bool any_ = false;
  const double first_slope_;
  const bool fixed_;
};

}  // namespace quern
