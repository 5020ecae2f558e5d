// NEON as every 64-bit Arm has it.
#if defined(__aarch64__)
#include "backend/cpu/kernels_begin.inc.h"
#define QUERN_NEON_DOTPROD 0

namespace quern::cpu {
namespace {
#include "backend/cpu/kernels_for_each.inc.h"

#include "backend/cpu/isa/neon/vec.h"
#include "backend/cpu/kernels.inc.h"
}  // namespace

constinit const Kernels kernels_neon = make_table("neon");

}  // namespace quern::cpu
#endif
