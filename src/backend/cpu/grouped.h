// Matrices with codes, scales and zero points in tensors of their own (quant/grouped.h) as tiles: every unit
// of 32 gets inputs of one group alone. Where the file's order of inputs does not do that (act-order, groups
// that are no multiple of 32), inputs are put into another order once, while packing, and so are the
// activations' columns at every use, while they are quantized.
#pragma once

#include <memory>
#include <vector>

#include "backend/cpu/packed.h"
#include "core/result.h"
#include "quant/grouped.h"

namespace quern::cpu {

/// The inputs of a matrix in the order of its tiles.
struct InputOrder {
  std::vector<int32_t> source;  // the input in each slot, whole units; −1: none, a slot of zeros
  bool operator==(const InputOrder&) const = default;
};

/// How a grouped matrix is cut into tiles.
struct GroupedPlan {
  PackedLayout layout;                      // cols: slots
  std::vector<int32_t> d_group;             // the group of each run of d_units units
  std::shared_ptr<const InputOrder> order;  // null: slot s holds input s

  /// The input in a slot, −1 for none.
  int64_t input(int64_t slot) const {
    return order == nullptr ? slot : int64_t{order->source[static_cast<size_t>(slot)]};
  }
  const int32_t* source() const { return order == nullptr ? nullptr : order->source.data(); }
};

GroupedPlan plan_grouped(const GroupedMatrix& matrix);

/// One tile of a grouped matrix: rows [first, first + 16), or as many as there are.
struct PackGrouped {
  const GroupedMatrix* matrix;
  const GroupedPlan* plan;
  const int32_t* source;  // plan->order's, or null
  int64_t first;
  uint8_t* out;  // plan->layout.tile_bytes()
};

/// The reference that Kernels::pack_grouped is held to, and what packs the last rows of a matrix.
void pack_grouped_reference(const PackGrouped& job);

/// The header of the superblock of `units` units from unit `first_unit` on; returns where its codes begin.
uint8_t* put_grouped_header(const PackGrouped& job, int64_t first_unit, int64_t units, uint8_t* out);

}  // namespace quern::cpu
