// AVX-512.
#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12's own header warns: _mm512_undefined_ps() is an uninitialized variable on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "quantize/dense_kernels.h"

#include "quant/search_begin.inc.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#endif

namespace quern {
namespace {
#include "quant/isa/avx512/vec.h"
#include "quantize/dense_kernels.inc.h"
}  // namespace

constinit const DenseKernels dense_avx512 = {"avx512", 12, 2 * kLanes, tile<12, 2>, add_scaled};

}  // namespace quern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
