// What a kernel source includes before its target region: everything that is not to be compiled for its ISA.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "backend/cpu/attention.h"
#include "backend/cpu/grouped.h"
#include "backend/cpu/kernels.h"
#include "core/half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define QUERN_INLINE inline __attribute__((always_inline))
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QUERN_UNROLL  // with checks at every access, unrolled kernels take minutes to compile
#define QUERN_UNROLL_SOME
#else
#define QUERN_UNROLL _Pragma("GCC unroll 16")
#define QUERN_UNROLL_SOME _Pragma("GCC unroll 4")  // a loop whose length is not known
#endif
#define QUERN_INLINE_LAMBDA __attribute__((always_inline))
