// The largest values of a row of logits: all that a sampler needs to see of most rows.
#pragma once

#include <cstdint>

namespace quern {

/// value[i], at column[i], for i < count: best first, of equals the lower column first, without NaN and
/// infinities.
struct BestOfRow {
  static constexpr int kMost = 64;
  int32_t count = 0;  // 0: nothing was found out, and the row must be looked at itself
  float total = 0;    // Σ e^((x − value[0]) · scale) over all of the row
  float value[kMost] = {};
  int32_t column[kMost] = {};
};

}  // namespace quern
