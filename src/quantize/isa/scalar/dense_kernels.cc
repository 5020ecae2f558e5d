// For CPUs without any of the others. Products are rounded before they are added: where there is no
// instruction for both at once, std::fma (which quant/isa/scalar/vec.h has) is a call.
#include "quantize/dense_kernels.h"

namespace quern {
namespace {

constexpr int kRows = 4, kCols = 8;

void tile(int64_t depth, const float* a, const float* b, float sign, float* out, int64_t stride) {
  float sum[kRows][kCols] = {};
  for (int64_t k = 0; k < depth; ++k, a += kRows, b += kCols)
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kCols; ++c) sum[r][c] += a[r] * b[c];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kCols; ++c) out[r * stride + c] += sign * sum[r][c];
}

void add_scaled(float* y, const float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

}  // namespace

constinit const DenseKernels dense_scalar = {"scalar", kRows, kCols, tile, add_scaled};

}  // namespace quern
