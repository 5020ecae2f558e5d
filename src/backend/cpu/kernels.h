// The kernels of one ISA, as a table of functions. The text of each is in kernels_*.inc.h, written once over
// a small vector type per ISA (isa/<name>/vec.h) and compiled per ISA. All ISAs do the same operations in the
// same order (every sum of floats runs over 16 logical lanes, whatever the width of a register), so they
// agree to the bit.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "backend/cpu/packed.h"
#include "core/dtype.h"

namespace quern::cpu {

/// Quantized activations of `width` columns of the product (rows of the input), unit by unit: the unit's
/// codes lie at codes + (u · width + c) · 32, its scale at scale[u · width + c], a group's values at
/// [(u · groups + g) · width + c].
struct Panel {
  const int8_t* codes;
  const float* scale;       // dx
  const float* scaled_sum;  // dx · Σ xq of the group; null when the weight has no minimums
  const int32_t* start;     // (bias − zero) · Σ xq of the group; see Kernels::code_bias8
  int width;                // 1, 2, 4 or 8
};

/// Some tiles of one matrix, one after another.
struct AffineTiles {
  const PackedLayout* layout;
  const uint8_t* tiles;  // null: not packed, and taken from `rows`, with the same result to the bit
  const PackTile* rows;  // 16 · count whole ones of a format with BlockFields; its `out` is not used
  const Panel* panels;
  int panel_count;
  int columns;  // sum of the panels' widths
  float* acc;   // out: [count][columns][16]
  int64_t count = 1;
};

struct FloatTile {
  DType dtype;             // F32, F16 or BF16
  const std::byte* first;  // rows, one after another
  int rows;                // ≤ 16
  int64_t cols;
  const float* in;
  int64_t in_stride;
  int columns;
  float* acc;  // out: [columns][16]
};

/// One KV head of one sequence for a few of its rows. Cache layout: see attention.h.
struct AttentionTask;
/// A tile of codes, scales and zero points that lie in tensors of their own: see grouped.h.
struct PackGrouped;

struct Kernels {
  std::string_view name;
  int max_panel;  // widest panel: 4 or 8
  /// Added to every code of 8 bits before it is multiplied (ISAs that have signed products alone flip the top
  /// bit): code − 128 + 128.
  int code_bias8;

  /// One row to int8: xq = rne(x / dx) with dx = amax / 127 per unit. Unit u's codes go to codes + u ·
  /// code_stride, its scale to scale[u · stride], its sums of 16 to sums[2u · stride] and sums[(2u + 1) ·
  /// stride].
  void (*quantize_row)(const float* x, int64_t cols, int8_t* codes, int64_t code_stride, float* scale,
                       int32_t* sums, int64_t stride);
  void (*affine_tiles)(const AffineTiles& job);
  /// Packs 16 whole rows of a format that has BlockFields.
  void (*pack_tile)(const PackTile& job);
  /// Packs 16 whole rows of a grouped matrix.
  void (*pack_grouped)(const PackGrouped& job);
  void (*float_tile)(const FloatTile& job);

  /// out = x / sqrt(mean(x²) + eps) · gain over n values.
  void (*rms_norm)(float* out, const float* x, const float* gain, int64_t n, float eps);
  /// out = gate / (1 + e^−gate) · up.
  void (*silu_mul)(float* out, const float* gate, const float* up, int64_t n);
  void (*add)(float* out, const float* in, int64_t n);
  /// out += weight · in.
  void (*add_scaled)(float* out, const float* in, float weight, int64_t n);
  /// `scratch`: AttentionScratch(layout).floats floats, aligned to 64.
  void (*attention)(const AttentionTask& task, float* scratch);
  /// Writes the task's `out` from what its stretches gave, one Gathered after another, the first of which
  /// changes.
  void (*merge_attention)(const AttentionTask& task, float* gathered);

  /// Reads `bytes` (a multiple of 1024) and returns something that depends on them: for measuring bandwidth.
  /// `ahead`: with prefetches among the loads; which way is faster differs from CPU to CPU.
  uint64_t (*read_all)(const std::byte* data, int64_t bytes, bool ahead);
  /// Runs `rounds` rounds of int8 products in registers; returns the operations (2 per product) of a round.
  int64_t (*int8_rounds)(int64_t rounds);
};

extern const Kernels kernels_scalar;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx2_vnni;
extern const Kernels kernels_avx512;
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
extern const Kernels kernels_neon_dotprod;
#endif

/// All that this CPU can run, the best first.
std::span<const Kernels* const> available_kernels();
/// `isa` as CpuOptions has it. The error names what there is.
Result<const Kernels*> choose_kernels(std::string_view isa);

}  // namespace quern::cpu
