#include "quant/fit.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "quant/codec.h"

namespace quern {
namespace {

// Candidate scales lie around the one that maps the extreme value to the extreme code; between the steps of a
// tenth of a code nothing better was seen.
constexpr float kStep = 0.1f;
constexpr float kTiny = 1e-30f;

float signed_extreme(std::span<const float> x) {
  float extreme = 0;
  for (const float v : x) {
    if (std::fabs(v) > std::fabs(extreme)) extreme = v;
  }
  return extreme;
}

double mean_square(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += static_cast<double>(v) * v;
  return sum / static_cast<double>(x.size());
}

/// importance[k] · √(mean + x²). False when there is none, or none that counts.
bool importance_weights(std::span<const float> x, const float* importance, double mean, float* weights) {
  if (importance == nullptr) return false;
  float sum = 0;
  for (size_t k = 0; k < x.size(); ++k) {
    weights[k] = importance[k] * std::sqrt(static_cast<float>(mean) + x[k] * x[k]);
    sum += weights[k];
  }
  return sum > 0 && std::isfinite(sum);
}

/// Weighted sums over the codes of one candidate: Σ w·q, Σ w·q², Σ w·q·x.
struct Sums {
  double q = 0;
  double qq = 0;
  double xq = 0;
};

/// q = (x − offset) · inverse, rounded and clamped to [lo, hi]. x.size() is a multiple of 4. This is where
/// encoding spends its time: four partial sums in a fixed order let compilers use vectors, and every build
/// the same bits.
Sums sums_of(std::span<const float> x, const float* weights, float offset, float inverse, float lo,
             float hi) {
  float q[4] = {};
  float qq[4] = {};
  float xq[4] = {};
  for (size_t k = 0; k < x.size(); k += 4) {
    for (size_t lane = 0; lane < 4; ++lane) {
      const float value = x[k + lane];
      const float scaled = (value - offset) * inverse;
      const float below = scaled < hi ? scaled : hi;
      const float code = codec::round_even(below > lo ? below : lo);
      const float weighted = weights[k + lane] * code;
      q[lane] += weighted;
      qq[lane] += weighted * code;
      xq[lane] += weighted * value;
    }
  }
  const auto total = [](const float(&part)[4]) {
    return (static_cast<double>(part[0]) + part[1]) + (static_cast<double>(part[2]) + part[3]);
  };
  return {total(q), total(qq), total(xq)};
}

/// The scale s with the least Σ w (x − s · code)², code = round(x / s) in [−code_max, code_max).
float search_scale(std::span<const float> x, const float* weights, int code_max) {
  const float extreme = signed_extreme(x);
  if (std::fabs(extreme) < kTiny) return 0;
  const auto lo = static_cast<float>(-code_max);
  const auto hi = static_cast<float>(code_max - 1);
  float best_scale = extreme / lo;
  double best_gain = 0;  // how much of Σ w x² the candidate explains
  for (int step = -9; step <= 9; ++step) {
    const Sums sums = sums_of(x, weights, 0, (lo - kStep * static_cast<float>(step)) / extreme, lo, hi);
    if (sums.qq > 0 && sums.xq * sums.xq > best_gain * sums.qq) {
      best_gain = sums.xq * sums.xq / sums.qq;
      best_scale = static_cast<float>(sums.xq / sums.qq);
    }
  }
  return best_scale;
}

/// The pair with the least Σ w (x − s · code − o)². With `downward`, o ≤ 0.
ScaleAndOffset search_range(std::span<const float> x, const float* weights, int code_max, bool downward) {
  auto [smallest, largest] = std::minmax_element(x.begin(), x.end());
  const float lo = downward ? std::min(*smallest, 0.0f) : *smallest;
  const float range = *largest - lo;
  if (range < kTiny) return {0, lo};
  double w = 0;
  double wx = 0;
  for (size_t k = 0; k < x.size(); ++k) {
    w += weights[k];
    wx += static_cast<double>(weights[k] * x[k]);
  }
  const auto top = static_cast<float>(code_max);
  ScaleAndOffset best{range / top, lo};
  double least = 0;  // weighted squared error, less Σ w x²
  for (int step = -10; step <= 10; ++step) {
    const auto [q, qq, xq] =
        sums_of(x, weights, lo, (top + kStep * static_cast<float>(step)) / range, 0, top);
    const double determinant = w * qq - q * q;
    // Nearly equal codes say nothing about the offset; float sums have no more digits than this.
    const bool solvable = determinant > 1e-5 * w * qq;
    double scale = solvable ? (w * xq - wx * q) / determinant : 0;
    double offset = solvable ? (qq * wx - q * xq) / determinant : 0;
    if (downward && qq > 0 && (!solvable || offset > 0)) {
      scale = xq / qq;
      offset = 0;
    }
    if (!(scale > 0)) continue;
    const double error =
        scale * scale * qq + offset * offset * w + 2 * (scale * offset * q - scale * xq - offset * wx);
    if (error < least) {
      least = error;
      best = {static_cast<float>(scale), static_cast<float>(offset)};
    }
  }
  return best;
}

}  // namespace

float largest_magnitude(std::span<const float> x) { return std::fabs(signed_extreme(x)); }

float fit_legacy_scale(std::span<const float> x, const float* importance, int code_max) {
  float weights[32];
  if (importance_weights(x, importance, mean_square(x), weights)) return search_scale(x, weights, code_max);
  return signed_extreme(x) / static_cast<float>(-code_max);
}

ScaleAndOffset fit_legacy_range(std::span<const float> x, const float* importance, int code_max) {
  float weights[32];
  if (importance_weights(x, importance, mean_square(x), weights))
    return search_range(x, weights, code_max, false);
  const auto [smallest, largest] = std::minmax_element(x.begin(), x.end());
  return {(*largest - *smallest) / static_cast<float>(code_max), *smallest};
}

template <int Group>
GroupedFit fit_groups(const float* x, const float* importance, GroupedLimits limits) {
  constexpr int kGroups = 256 / Group;
  const double mean = mean_square({x, 256});
  float scales[kGroups];
  float mins[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    const std::span<const float> group(x + g * Group, Group);
    float weights[Group];
    if (!importance_weights(group, importance == nullptr ? nullptr : importance + g * Group, mean, weights)) {
      const auto typical = static_cast<float>(std::sqrt(mean_square(group)));
      for (int k = 0; k < Group; ++k) weights[k] = typical + std::fabs(group[k]);
    }
    const ScaleAndOffset best = search_range(group, weights, limits.code_max, true);
    scales[g] = best.scale;
    mins[g] = -best.offset;
  }
  const auto top = static_cast<float>(limits.scale_max);
  GroupedFit fit;
  fit.d = codec::f16_scale(*std::max_element(scales, scales + kGroups) / top);
  fit.dmin = codec::f16_scale(*std::max_element(mins, mins + kGroups) / top);
  const float d = f16_to_f32(fit.d);
  const float dmin = f16_to_f32(fit.dmin);
  for (int g = 0; g < kGroups; ++g) {
    fit.scale[g] = static_cast<int16_t>(codec::code_of(scales[g], codec::inverse_of(d), 0, top));
    fit.min[g] = static_cast<uint8_t>(codec::code_of(mins[g], codec::inverse_of(dmin), 0, top));
    const float inverse = codec::inverse_of(d * static_cast<float>(fit.scale[g]));
    const float min = dmin * static_cast<float>(fit.min[g]);
    for (int k = g * Group; k < (g + 1) * Group; ++k)
      fit.code[k] =
          static_cast<uint8_t>(codec::code_of(x[k] + min, inverse, 0, static_cast<float>(limits.code_max)));
  }
  return fit;
}

template GroupedFit fit_groups<16>(const float*, const float*, GroupedLimits);
template GroupedFit fit_groups<32>(const float*, const float*, GroupedLimits);

GroupedFit fit_groups_symmetric(const float* x, const float* importance, GroupedLimits limits) {
  constexpr int kGroup = 16;
  const double mean = mean_square({x, 256});
  float scales[16];
  for (int g = 0; g < 16; ++g) {
    const std::span<const float> group(x + g * kGroup, kGroup);
    float weights[kGroup];
    if (!importance_weights(group, importance == nullptr ? nullptr : importance + g * kGroup, mean,
                            weights)) {
      for (int k = 0; k < kGroup; ++k) weights[k] = group[k] * group[k];
    }
    scales[g] = search_scale(group, weights, limits.code_max);
  }
  GroupedFit fit;
  // The largest scale becomes the code that reaches furthest, −scale_max.
  fit.d = codec::f16_scale(signed_extreme(scales) / static_cast<float>(-limits.scale_max));
  const float d = f16_to_f32(fit.d);
  for (int g = 0; g < 16; ++g) {
    fit.scale[g] = static_cast<int16_t>(codec::code_of(scales[g], codec::inverse_of(d),
                                                       static_cast<float>(-limits.scale_max),
                                                       static_cast<float>(limits.scale_max - 1)));
    const float inverse = codec::inverse_of(d * static_cast<float>(fit.scale[g]));
    for (int k = g * kGroup; k < (g + 1) * kGroup; ++k) {
      const float code = codec::code_of(x[k], inverse, static_cast<float>(-limits.code_max),
                                        static_cast<float>(limits.code_max - 1));
      fit.code[k] = static_cast<uint8_t>(static_cast<int>(code) + limits.code_max);
    }
  }
  return fit;
}

}  // namespace quern
