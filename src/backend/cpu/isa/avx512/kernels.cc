// AVX-512 with VNNI.
#if defined(__x86_64__)
#if !defined(__clang__)
// GCC 12's own header warns: _mm512_undefined_ps() is an uninitialized variable on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "backend/cpu/kernels_begin.inc.h"

#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif

namespace quern::cpu {
namespace {
#include "backend/cpu/kernels_for_each.inc.h"

#include "backend/cpu/isa/avx512/vec.h"
#include "backend/cpu/kernels.inc.h"
}  // namespace

constinit const Kernels kernels_avx512 = make_table("avx512");

}  // namespace quern::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
