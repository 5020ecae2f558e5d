// AVX2 with FMA.
#if defined(__x86_64__)
#include "quantize/dense_kernels.h"

#include "quant/search_begin.inc.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace quern {
namespace {
#include "quant/isa/avx2/vec.h"
#include "quantize/dense_kernels.inc.h"
}  // namespace

constinit const DenseKernels dense_avx2 = {"avx2", 6, 2 * kLanes, tile<6, 2>, add_scaled};

}  // namespace quern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
