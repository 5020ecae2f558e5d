// BestOfRow by its definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "core/best_of_row.h"

namespace quern::testing {

inline BestOfRow best_of_row(std::span<const float> row, float scale) {
  std::vector<int32_t> possible;
  for (size_t i = 0; i < row.size(); ++i)
    if (std::isfinite(row[i])) possible.push_back(static_cast<int32_t>(i));
  std::ranges::stable_sort(possible, std::greater<>(),
                           [&](int32_t i) { return row[static_cast<size_t>(i)]; });
  BestOfRow best;
  double total = 0;
  for (const int32_t i : possible) {
    const float x = row[static_cast<size_t>(i)];
    if (best.count < BestOfRow::kMost) {
      best.value[best.count] = x;
      best.column[best.count++] = i;
    }
    total += std::exp(static_cast<double>((x - best.value[0]) * scale));
  }
  best.total = static_cast<float>(total);
  return best;
}

}  // namespace quern::testing
