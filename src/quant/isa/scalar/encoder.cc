// For CPUs without any of the others.
#include "quant/search_begin.inc.h"

namespace quern {
namespace {
#include "quant/isa/scalar/vec.h"
#include "quant/search.inc.h"
}  // namespace

constinit const Encoder encoder_scalar = {"scalar", load_values, fit_tile};

}  // namespace quern
