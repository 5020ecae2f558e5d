// From stored matrices to the GPU's layout (layout.h), on the host.
#pragma once

#include <cstddef>
#include <vector>

#include "backend/cuda/layout.h"
#include "core/tensor.h"
#include "quant/grouped.h"
#include "quant/quant.h"

namespace quern::cuda {

/// How one matrix of a format is held.
struct PackPlan {
  Form form;
  int zero = 0;
  int group_shift = 0;
  int64_t rows = 0, cols = 0;
  int tiles = 0, units = 0;

  /// Without pointers.
  Packed shape() const;
  int64_t code_words() const { return shape().code_words(form.bits); }
  int64_t head_words() const { return shape().head_words(form); }
  int64_t super_words() const { return shape().super_words(form); }
  int64_t factors() const { return int64_t{tiles} * kTile; }
  /// Of one matrix.
  uint64_t bytes() const {
    return 4 * static_cast<uint64_t>(code_words() + head_words() + super_words() + factors());
  }
};

/// For every format: affine ones keep their codes and scales, exactly; where no kernel is made for theirs,
/// and for floats, weights become halves (with a power of two per row, so that no range is lost).
PackPlan pack_plan(const QuantInfo& info, int64_t rows, int64_t cols);

/// How a matrix in groups is held: w[n, k] = s · (code − zero[g, n]), as a plain form whose minimums, where
/// there are any, are s · (zero − 2^(bits − 1)).
struct GroupedPlan : PackPlan {
  /// The input that column k multiplies, −1 for none: inputs sorted by group, every group padded to whole
  /// runs of 32, and the row to whole units. Empty: column k, input k.
  std::vector<int32_t> order;
  std::vector<int32_t> group;  // of each of a packed row's groups
};
GroupedPlan pack_plan(const GroupedMatrix& matrix);

/// Memory for one matrix, all zeros at first.
struct PackOutput {
  uint32_t *codes, *heads, *supers;
  float* factor;
};

/// Packs tile `tile` of a matrix whose stored rows begin at `data`. Tiles may be packed side by side.
void pack_tile(const PackPlan& plan, const QuantInfo& info, const std::byte* data, int tile,
               const PackOutput& out);
void pack_tile(const GroupedPlan& plan, const GroupedMatrix& matrix, int tile, const PackOutput& out);

}  // namespace quern::cuda
