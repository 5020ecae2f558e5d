// NEON as every 64-bit Arm has it.
#if defined(__aarch64__)
#include "quant/search_begin.inc.h"

namespace quern {
namespace {
#include "quant/isa/neon/vec.h"
#include "quant/search.inc.h"
}  // namespace

constinit const Encoder encoder_neon = {"neon", load_values, fit_tile};

}  // namespace quern
#endif
