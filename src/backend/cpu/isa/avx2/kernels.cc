// AVX2 with FMA and F16C.
#if defined(__x86_64__)
#include "backend/cpu/kernels_begin.inc.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace quern::cpu {
namespace {
#include "backend/cpu/kernels_for_each.inc.h"

#include "backend/cpu/isa/avx2/registers.h"
#include "backend/cpu/isa/avx2/vec.h"
#include "backend/cpu/kernels.inc.h"
}  // namespace

constinit const Kernels kernels_avx2 = make_table("avx2");

}  // namespace quern::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
