#include "quant/fit.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "quant/codec.h"

namespace quern {
namespace {

/// One group, scaled for the search.
struct Group {
  std::span<const float> x;
  float lowest = 0;           // with minimums; y = (x − lowest) · unit
  float range = 0;            // with minimums: largest − lowest; without: the value of largest magnitude
  float unit = 0;             // 1 / range, or −1 / range where there are no minimums; 0 for a flat group
  float cap = 1e30f;          // largest offset allowed
  float bottom = 0, top = 0;  // codes
  float y[32], w[32];
  float sum_w = 0, sum_wy = 0;
};

struct Sums {
  float q = 0, qq = 0, yq = 0;  // Σ w·q, Σ w·q², Σ w·q·y
};

/// Weighted sums over q = round((y − origin) · inverse).
Sums sums_at(const Group& g, float origin, float inverse) {
  Sums sums;
  for (size_t k = 0; k < g.x.size(); ++k) {
    const float shifted = std::fma(g.y[k] - origin, inverse, kRound);
    const float below = shifted < kRound + g.top ? shifted : kRound + g.top;
    const float code = (below > kRound + g.bottom ? below : kRound + g.bottom) - kRound;
    const float weighted = g.w[k] * code;
    sums.q += weighted;
    sums.qq = std::fma(weighted, code, sums.qq);
    sums.yq = std::fma(weighted, g.y[k], sums.yq);
  }
  return sums;
}

/// What a candidate explains of the error, as numerator / denominator: divisions are left out.
struct Candidate {
  Sums sums;
  float numerator = -1e30f;
  float denominator = 1;
  float scale_numerator = 0, scale_denominator = 1;  // s
  float offset_numerator = 0;                        // o, over the same denominator
};

bool better(const Candidate& a, const Candidate& b) {
  return a.numerator * b.denominator > b.numerator * a.denominator;
}

Candidate judge(const Group& g, const Sums& sums, bool has_min) {
  Candidate c{.sums = sums, .scale_numerator = 1, .scale_denominator = has_min ? g.top : -g.bottom};
  if (!has_min) {
    if (!(sums.qq > 0 && sums.yq > 0)) return c;
    c.numerator = sums.yq * sums.yq;
    c.denominator = c.scale_denominator = sums.qq;
    c.scale_numerator = sums.yq;
    return c;
  }
  const float determinant = std::fma(-sums.q, sums.q, g.sum_w * sums.qq);
  const float slope = std::fma(-g.sum_wy, sums.q, g.sum_w * sums.yq);
  const float offset = std::fma(-sums.q, sums.yq, sums.qq * g.sum_wy);
  if (determinant > kSolvable * (g.sum_w * sums.qq) && slope > 0 && offset <= g.cap * determinant) {
    c.numerator = slope * slope;
    c.denominator = c.scale_denominator = determinant;
    c.scale_numerator = slope;
    c.offset_numerator = offset;
    return c;
  }
  // The best with the offset at its cap.
  const float capped = std::fma(-g.cap, sums.q, sums.yq);
  if (!(sums.qq > 0 && capped > 0)) return c;
  const float missed = std::fma(-g.cap, g.sum_w, g.sum_wy);
  c.numerator = std::fma(-(missed * missed), sums.qq, (capped * capped) * g.sum_w);
  c.denominator = c.scale_denominator = sums.qq;
  c.scale_numerator = capped;
  c.offset_numerator = g.cap * sums.qq;
  return c;
}

struct Line {
  float scale, offset;  // y ≈ scale · q + offset
};
Line line_of(const Candidate& c) {
  return {c.scale_numerator / c.scale_denominator, c.offset_numerator / c.scale_denominator};
}

Candidate search(const Group& g, const ScaleSearch& s, bool has_min) {
  const float q_max = has_min ? g.top : -g.bottom;
  Candidate best;
  for (int step = s.first; step <= s.last; ++step) {
    const float inverse = q_max + s.step * static_cast<float>(step);
    const Candidate candidate = judge(g, sums_at(g, 0, inverse), has_min);
    if (step == s.first || better(candidate, best)) best = candidate;
  }
  for (int i = 0; i < s.again; ++i) {
    const Line line = line_of(best);
    const Candidate candidate = judge(g, sums_at(g, line.offset, 1 / line.scale), has_min);
    if (better(candidate, best)) best = candidate;
  }
  return best;
}

float signed_extreme(std::span<const float> x) {
  float extreme = 0;
  for (const float v : x) {
    if (std::fabs(v) > std::fabs(extreme)) extreme = v;
  }
  return extreme;
}

float square_sum(std::span<const float> x) {
  float sum = 0;
  for (const float v : x) sum = std::fma(v, v, sum);
  return sum;
}

/// Fills g.y from what g.x spans. `downward`: the minimum is never above 0.
void scale_group(Group& g, bool has_min, bool downward) {
  if (has_min) {
    float low = downward ? 0 : g.x[0], high = g.x[0];
    for (const float v : g.x) {
      low = v < low ? v : low;
      high = v > high ? v : high;
    }
    g.lowest = low;
    g.range = high - low;
  } else {
    g.range = signed_extreme(g.x);
  }
  if (std::fabs(g.range) < kFlat) g.range = 0;
  g.unit = g.range == 0 ? 0 : (has_min ? 1.0f : -1.0f) / g.range;
  if (has_min && downward) g.cap = -g.lowest * g.unit;
  for (size_t k = 0; k < g.x.size(); ++k) g.y[k] = (g.x[k] - g.lowest) * g.unit;
}

/// Fills g.w. `spread` is added to x² under the root of importance weights.
void weigh_group(Group& g, const float* importance, float spread) {
  bool counts = false;
  if (importance != nullptr) {
    float sum = 0;
    for (size_t k = 0; k < g.x.size(); ++k) {
      g.w[k] = importance[k] * std::sqrt(std::fma(g.x[k], g.x[k], spread));
      sum += g.w[k];
    }
    const float inverse = 1 / sum;
    counts = sum > 0 && inverse > 0 && std::isfinite(inverse);
    for (size_t k = 0; k < g.x.size(); ++k) g.w[k] *= inverse;
  }
  if (!counts) {
    const float typical = std::sqrt(square_sum(g.x) / static_cast<float>(g.x.size()));
    for (size_t k = 0; k < g.x.size(); ++k) g.w[k] = (typical + std::fabs(g.x[k])) * std::fabs(g.unit);
  }
  for (size_t k = 0; k < g.x.size(); ++k) {
    g.sum_w += g.w[k];
    g.sum_wy = std::fma(g.w[k], g.y[k], g.sum_wy);
  }
}

void take_codes(const AffineShape& shape, std::span<const float> x, float scale, float min, int bottom,
                uint8_t* code) {
  const float inverse = codec::inverse_of(scale);
  const auto low = static_cast<float>(bottom);
  const auto high = static_cast<float>((1 << shape.bits) - 1 - shape.zero);
  for (size_t k = 0; k < x.size(); ++k) {
    const float value = codec::code_of(x[k] + min, inverse, low, high);
    code[k] = static_cast<uint8_t>(static_cast<int>(value) + shape.zero);
  }
}

/// The integer scale and minimum near `c.scale` with the least error for the candidate's own codes.
struct ScaleCode {
  float scale = 0, min = 0;
};
ScaleCode round_together(const Group& g, const Candidate& c, float near, float d, float dmin, float limit) {
  const float determinant = std::fma(-c.sums.q, c.sums.q, g.sum_w * c.sums.qq);
  const float slope = std::fma(-g.sum_wy, c.sums.q, g.sum_w * c.sums.yq);
  ScaleCode best;
  float least = 0;
  for (int i = -1; i <= 1; ++i) {
    ScaleCode code;
    code.scale = std::clamp(near + static_cast<float>(i), 0.0f, limit);
    const float a = (d * code.scale) * g.unit;
    const float free_offset = std::fma(-a, c.sums.q, g.sum_wy) * codec::inverse_of(g.sum_w);
    code.min = codec::code_of(std::fma(-free_offset, g.range, -g.lowest), codec::inverse_of(dmin), 0, limit);
    const float offset = -std::fma(dmin, code.min, g.lowest) * g.unit;
    const float missed = std::fma(g.sum_w, offset, std::fma(a, c.sums.q, -g.sum_wy));
    const float error = std::fma(a, std::fma(a, determinant, -2 * slope), missed * missed);
    if (i == -1 || error < least) {
      least = error;
      best = code;
    }
  }
  return best;
}

/// Of the scales around `near`, the one whose own codes fit best.
float best_scale(const Group& g, float near, float d, float limit) {
  float best = 0, least = 0;
  for (int i = -1; i <= 1; ++i) {
    const float scale = std::clamp(near + static_cast<float>(i), -limit, limit - 1);
    const float a = (d * scale) * g.unit;
    const Sums sums = sums_at(g, 0, codec::inverse_of(a));
    const float error = a * std::fma(a, sums.qq, -2 * sums.yq);
    if (i == -1 || error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

void fit_grouped(std::span<Group> groups, const AffineShape& shape, const ScaleSearch& s, AffineBlock& out) {
  Candidate best[16];
  float scales[16] = {}, mins[16] = {};
  for (size_t i = 0; i < groups.size(); ++i) {
    const Group& g = groups[i];
    best[i] = search(g, s, shape.has_min);
    const Line line = line_of(best[i]);
    scales[i] = line.scale * (shape.has_min ? g.range : -g.range);
    mins[i] = -std::fma(line.offset, g.range, g.lowest);
  }
  const auto limit = static_cast<float>(shape.scale_limit);
  const std::span<const float> used(scales, groups.size());
  // Without minimums the largest scale becomes the code that reaches furthest, −limit.
  out.d = f16_to_f32(codec::f16_scale(shape.has_min ? *std::max_element(used.begin(), used.end()) / limit
                                                    : signed_extreme(used) / -limit));
  // + 0: which zero is the larger one, −0 or 0, differs from processor to processor.
  out.dmin = shape.has_min
                 ? f16_to_f32(codec::f16_scale(*std::max_element(mins, mins + groups.size()) / limit)) + 0.0f
                 : 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    const Group& g = groups[i];
    ScaleCode code;
    if (shape.has_min) {
      const float near = codec::code_of(scales[i], codec::inverse_of(out.d), 0, limit);
      code = round_together(g, best[i], near, out.d, out.dmin, limit);
      if (s.reconsider) {
        const float offset = -std::fma(out.dmin, code.min, g.lowest) * g.unit;
        best[i].sums = sums_at(g, offset, codec::inverse_of((out.d * code.scale) * g.unit));
        code = round_together(g, best[i], code.scale, out.d, out.dmin, limit);
      }
    } else {
      code.scale = codec::code_of(scales[i], codec::inverse_of(out.d), -limit, limit - 1);
      if (s.reconsider) code.scale = best_scale(g, code.scale, out.d, limit);
    }
    out.scale[i] = static_cast<int16_t>(code.scale);
    out.min[i] = static_cast<uint8_t>(code.min);
    take_codes(shape, g.x, out.d * code.scale, out.dmin * code.min, static_cast<int>(g.bottom),
               out.code + i * g.x.size());
  }
}

/// One scale (and minimum) for the block. Without importance the extreme values become the extreme codes.
void fit_single(Group& g, const AffineShape& shape, const float* importance, AffineBlock& out) {
  const Line line = importance == nullptr ? line_of(judge(g, {}, shape.has_min))
                                          : line_of(search(g, kImportantSingleSearch, shape.has_min));
  out.d = f16_to_f32(codec::f16_scale(line.scale * (shape.has_min ? g.range : -g.range)));
  out.dmin = shape.has_min ? -f16_to_f32(codec::f16_clamped(std::fma(line.offset, g.range, g.lowest))) : 0;
  codec::unit_scales(out, shape.has_min);
  take_codes(shape, g.x, out.d, out.dmin, static_cast<int>(g.bottom), out.code);
}

/// Eight bits: symmetric, ±127.
void fit_bytes(const AffineShape& shape, std::span<const float> x, AffineBlock& out) {
  const float d = std::fabs(signed_extreme(x)) / 127;
  out.d = shape.wide_d ? d : f16_to_f32(codec::f16_scale(d));
  if (codec::inverse_of(out.d) == 0) out.d = 0;
  out.dmin = 0;
  codec::unit_scales(out, false);
  take_codes(shape, x, out.d, 0, -127, out.code);
}

}  // namespace

bool importance_counts(const float* importance, size_t n) {
  return std::any_of(importance, importance + n, [](float v) { return v > 0; });
}

void fit_block(const AffineShape& shape, size_t block, const float* values, const float* importance,
               AffineBlock& out) {
  float x[256];
  for (size_t k = 0; k < block; ++k)
    x[k] = shape.wide_d ? values[k] : std::clamp(values[k], -kLargest, kLargest);
  if (shape.bits == 8) return fit_bytes(shape, {x, block}, out);
  if (importance != nullptr && !importance_counts(importance, block)) importance = nullptr;
  const auto group = static_cast<size_t>(shape.group);
  float spread = 0;
  for (size_t i = 0; i < block; i += group) spread += square_sum({x + i, group});
  spread /= static_cast<float>(shape.has_scales ? block / 2 : block);
  Group groups[16];
  for (size_t i = 0; i < block / group; ++i) {
    Group& g = groups[i];
    g.x = {x + i * group, group};
    g.bottom = static_cast<float>(-shape.zero);
    g.top = static_cast<float>((1 << shape.bits) - 1 - shape.zero);
    scale_group(g, shape.has_min, shape.has_scales);
    weigh_group(g, importance == nullptr ? nullptr : importance + i * group, spread);
  }
  if (!shape.has_scales) return fit_single(groups[0], shape, importance, out);
  const ScaleSearch& s = importance == nullptr ? kPlainSearch : kImportantSearch;
  fit_grouped({groups, block / group}, shape, s, out);
}

}  // namespace quern
