// What an encoder's source includes before its target region: everything that is not to be compiled for its
// ISA.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "quant/codec.h"
#include "quant/encoder.h"
#include "quant/fit.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define QUERN_INLINE inline __attribute__((always_inline))
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QUERN_UNROLL  // with checks at every access, unrolled loops take minutes to compile
#else
#define QUERN_UNROLL _Pragma("GCC unroll 16")
#endif
