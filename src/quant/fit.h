// Searches for the scales of a block, shared by the encoders.
#pragma once

#include <cstdint>
#include <span>

namespace quern {

float largest_magnitude(std::span<const float> x);

/// The scale d of codes in [−code_max, code_max). Without importance the value of largest magnitude becomes
/// code −code_max exactly; with it, the scale with the least weighted squared error near that one.
float fit_legacy_scale(std::span<const float> x, const float* importance, int code_max);

struct ScaleAndOffset {
  float scale;
  float offset;  // x ≈ scale · code + offset
};

/// For codes in [0, code_max]. Without importance the smallest value becomes code 0 and the largest code_max;
/// with it, the pair with the least weighted squared error near that one.
ScaleAndOffset fit_legacy_range(std::span<const float> x, const float* importance, int code_max);

/// A block of 256 weights in groups that have their own small integer scale and minimum:
/// x ≈ f16(d) · scale[g] · code − f16(dmin) · min[g]; symmetric: x ≈ f16(d) · scale[g] · (code − code_max).
struct GroupedFit {
  uint16_t d = 0;     // f16
  uint16_t dmin = 0;  // f16
  int16_t scale[16] = {};
  uint8_t min[16] = {};
  uint8_t code[256] = {};
};

struct GroupedLimits {
  int code_max;   // with minimums: codes in [0, code_max]; symmetric: in [0, 2 · code_max)
  int scale_max;  // with minimums: scales in [0, scale_max]; symmetric: in [−scale_max, scale_max)
};

/// Group = 16 or 32 weights. Minimizes the squared error weighted by importance · √(mean x² + x²), or,
/// without importance, by √(mean x²) + |x|: large weights matter more than their number says.
template <int Group>
GroupedFit fit_groups(const float* x, const float* importance, GroupedLimits limits);

/// Groups of 16 without minimums. Weighted by importance · √(mean x² + x²), or, without importance, by x².
GroupedFit fit_groups_symmetric(const float* x, const float* importance, GroupedLimits limits);

}  // namespace quern
