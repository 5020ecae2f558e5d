// The grids of GPTQ's groups: which scale, and which zero point, suit some weights best.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/result.h"

namespace quern {

/// How a checkpoint's weights are stored: w = scale · (code − zero).
struct GptqFormat {
  int bits = 4;            // 2, 3, 4 or 8
  int64_t group = 128;     // inputs that share a scale and a zero point; −1: all of them
  bool symmetric = true;   // every zero point is 2^(bits − 1)
  bool act_order = false;  // groups are made of inputs of like importance, wherever these are
  int largest_code() const { return (1 << bits) - 1; }
  int64_t group_of(int64_t cols) const { return group < 0 ? cols : group; }
};

/// "gptq-4bit-128g"; "gptq-4bit-channel": one group, all inputs of an output. Any case. invalid_argument says
/// what is possible.
Result<GptqFormat> parse_gptq_type(std::string_view type);
/// Whether a name wants to be one of these.
bool is_gptq_type(std::string_view type);

/// One output's scale and zero point in one group.
struct GptqGrid {
  uint16_t scale_f16 = 0;  // as it is stored
  float scale = 0;         // the same, exactly; 0: all weights become 0. May be negative.
  float inverse = 0;       // 1 / scale, or 0
  int zero = 0;            // 1 … largest code

  /// A code in [0, largest]; ties are rounded away from 0.
  int code(float weight, int largest) const {
    const float steps = std::clamp(weight * inverse, -512.0f, 512.0f);
    return std::clamp(static_cast<int>(steps + (steps < 0 ? -0.5f : 0.5f)) + zero, 0, largest);
  }
  float value(int code) const { return scale * static_cast<float>(code - zero); }
};

/// The grid with the least Σ importance · (w − value(code(w)))² among those tried: ranges from the whole one
/// down to a part that depends on the bits, each with the best scale for its codes. Zero points of 0 are not
/// used: the files store them less one, and readers differ in what they make of −1. Weights and importances
/// are finite; importances ≥ 0. A scale beyond f16's range becomes its largest value.
GptqGrid choose_grid(const GptqFormat& format, std::span<const float> weights,
                     std::span<const float> importance);

}  // namespace quern
