// What an ISA brings to dense f32 linear algebra; dense.h is the interface.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/result.h"

namespace quern {

struct DenseKernels {
  std::string_view name;
  int rows, cols;  // of a tile; at most kMaxTileRows × kMaxTileCols
  /// out[r · stride + c] += sign · Σ_k a[k · rows + r] · b[k · cols + c], for a whole tile, summed over k in
  /// ascending order before it is added to out. `a` and `b` are packed so (dense.cc).
  void (*tile)(int64_t depth, const float* a, const float* b, float sign, float* out, int64_t stride);
  /// y[i] += factor · x[i]
  void (*add_scaled)(float* y, const float* x, float factor, int64_t n);
};

constexpr int kMaxTileRows = 12, kMaxTileCols = 32;

#if defined(__x86_64__)
extern const DenseKernels dense_avx2, dense_avx512;
#elif defined(__aarch64__)
extern const DenseKernels dense_neon;
#endif
extern const DenseKernels dense_scalar;

/// Those that this CPU can run, the fastest first; the last is scalar.
std::span<const DenseKernels* const> available_dense_kernels();
/// The fastest, or the one that QUERN_FORCE_ISA names; as backend/cpu chooses its kernels.
Result<const DenseKernels*> choose_dense_kernels();

}  // namespace quern
