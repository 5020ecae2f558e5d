#include "nn/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace quern::nn {
namespace {

// YaRN's ramp: 1 for dimensions that turn more than beta_fast times within the original context (kept as they
// are), 0 for those that turn less than beta_slow times (interpolated), linear in between. The ends are
// rounded outwards to whole dimensions, as llama.cpp and Hugging Face do.
struct YarnRamp {
  double low = 0, high = 0;
  explicit YarnRamp(const RopeScaling& s) {
    const auto dimension = [&](double turns) {
      return static_cast<double>(s.rotated) * std::log(s.original_context / (turns * 2 * std::numbers::pi)) /
             (2 * std::log(s.base));
    };
    low = std::max(0.0, std::floor(dimension(s.beta_fast)));
    high = std::min(static_cast<double>(s.rotated - 1), std::ceil(dimension(s.beta_slow)));
  }
  double operator()(int64_t i) const {
    const double t = (static_cast<double>(i) - low) / std::max(0.001, high - low);
    return 1 - std::clamp(t, 0.0, 1.0);
  }
};

}  // namespace

RopeTable rope_table(const RopeScaling& s) {
  RopeTable table;
  table.magnitude = static_cast<float>(s.magnitude);
  const YarnRamp ramp(s);
  for (int64_t i = 0; i < s.rotated / 2; ++i) {
    double speed = std::pow(s.base, -2.0 * static_cast<double>(i) / static_cast<double>(s.rotated));
    if (!s.divisors.empty()) speed /= s.divisors[static_cast<size_t>(i)];
    const double interpolated = speed / s.factor;
    const double kept = s.yarn ? ramp(i) : 0.0;
    table.frequency.push_back(static_cast<float>(1 / (interpolated * (1 - kept) + speed * kept)));
  }
  if (s.yarn && s.factor > 1) table.magnitude *= static_cast<float>(1 + 0.1 * std::log(s.factor));
  return table;
}

}  // namespace quern::nn
