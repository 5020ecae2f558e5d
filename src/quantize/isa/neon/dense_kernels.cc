// NEON as every 64-bit Arm has it.
#if defined(__aarch64__)
#include "quantize/dense_kernels.h"

#include "quant/search_begin.inc.h"

namespace quern {
namespace {
#include "quant/isa/neon/vec.h"
#include "quantize/dense_kernels.inc.h"
}  // namespace

constinit const DenseKernels dense_neon = {"neon", 6, 4 * kLanes, tile<6, 4>, add_scaled};

}  // namespace quern
#endif
