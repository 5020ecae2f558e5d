// AVX2 with the dot products of AVX-VNNI, as desktop processors since 2021 have them.
#if defined(__x86_64__)
#include "backend/cpu/kernels_begin.inc.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

namespace quern::cpu {
namespace {
#include "backend/cpu/kernels_for_each.inc.h"

#include "backend/cpu/isa/avx2/registers.h"

QUERN_INLINE __m256i dpbusd(__m256i sums, __m256i codes, __m256i x) {
  return _mm256_dpbusd_avx_epi32(sums, codes, x);
}

#include "backend/cpu/isa/avx2/vec_vnni.h"
#include "backend/cpu/kernels.inc.h"
}  // namespace

constinit const Kernels kernels_avx2_vnni = make_table("avx2-vnni");

}  // namespace quern::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
