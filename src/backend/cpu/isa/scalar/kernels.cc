// The reference that every other ISA is held to.
#include "backend/cpu/kernels_begin.inc.h"

namespace quern::cpu {
namespace {
#include "backend/cpu/kernels_for_each.inc.h"

#include "backend/cpu/isa/scalar/vec.h"
#include "backend/cpu/kernels.inc.h"
}  // namespace

constinit const Kernels kernels_scalar = make_table("scalar");

}  // namespace quern::cpu
