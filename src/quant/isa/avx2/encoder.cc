// AVX2 with FMA and F16C.
#if defined(__x86_64__)
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
#include "quant/search.inc.h"
}  // namespace

constinit const Encoder encoder_avx2 = {"avx2", load_values, fit_tile};

}  // namespace quern

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
