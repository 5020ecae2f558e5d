#include "scheduler/step_cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace quern {
namespace {

/// What a further row is taken to cost before anything is known, as a part of a step of one.
constexpr double kFirstSlope = 0.15;
/// How fast the time of all steps, and that of one number of rows, follow a new measurement.
constexpr double kScaleRate = 0.3, kLeastRate = 0.1;
/// One step says no more than this, as a logarithm: another program may have had the processor.
constexpr double kMostError = 0.5;
constexpr double kKept = 0.995, kLeastWeight = 0.5, kMostWeight = 20;

}  // namespace

StepCost::StepCost(double fixed) : first_slope_(fixed > 0 ? fixed : kFirstSlope), fixed_(fixed > 0) {}

bool StepCost::known(int64_t rows) const { return seen_[static_cast<size_t>(rows)].weight >= kLeastWeight; }

/// Where nothing is known of so many rows, each one more costs what it did up to the nearest number known.
double StepCost::log_times(int64_t rows) const {
  if (rows > kMostRows)
    return log_times(kMostRows) + std::log(static_cast<double>(rows) / static_cast<double>(kMostRows));
  if (rows <= 1) return 0;
  int64_t below = rows;
  while (below > 1 && !known(below)) --below;
  const double times = std::exp(seen_[static_cast<size_t>(below)].log_times);
  if (below == rows) return seen_[static_cast<size_t>(below)].log_times;
  const double slope = below > 1 ? std::max(times - 1, 0.0) / static_cast<double>(below - 1) : first_slope_;
  return std::log((below > 1 ? times : 1) + slope * static_cast<double>(rows - below));
}

void StepCost::measured(int64_t rows, double seconds) {
  if (fixed_ || rows < 1 || rows > kMostRows || !(seconds > 0)) return;
  const double before = log_times(rows), time = std::log(seconds) - before;
  if (!std::exchange(any_, true)) scale_ = time;
  const double error = std::clamp(time - scale_, -kMostError, kMostError);
  for (Seen& other : seen_) other.weight *= kKept;
  Seen& seen = seen_[static_cast<size_t>(rows)];
  if (seen.weight < kLeastWeight) seen.weight = 0;
  // A step of one row is the unit: it can only say how long all steps take.
  const double rate = rows == 1 ? 0 : std::max(1 / (1 + seen.weight), kLeastRate);
  seen.log_times = rows == 1 ? 0 : before + rate * error;
  seen.weight = std::min(seen.weight + 1, kMostWeight);
  scale_ += kScaleRate * (1 - rate) * error;
}

double StepCost::ratio(int64_t rows, int64_t more) const {
  return std::exp(log_times(rows + more) - log_times(rows));
}

}  // namespace quern
