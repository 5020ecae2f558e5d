// NEON with the dot-product instructions of Armv8.2 (sdot).
#if defined(__aarch64__)
#include "backend/cpu/kernels_begin.inc.h"
#define QUERN_NEON_DOTPROD 1

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace quern::cpu {
namespace {
#include "backend/cpu/kernels_for_each.inc.h"

#include "backend/cpu/isa/neon/vec.h"
#include "backend/cpu/kernels.inc.h"
}  // namespace

constinit const Kernels kernels_neon_dotprod = make_table("neon-dotprod");

}  // namespace quern::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
