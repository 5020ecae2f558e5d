// The instruction sets that kernels are written for, and which of them this CPU has.
#pragma once

#include <span>
#include <string_view>

#include "core/result.h"

namespace quern {

/// Best first: "avx512" (F, BW, DQ, VL, VNNI), "avx2-vnni" (AVX2 with AVX-VNNI), "avx2" (with FMA and F16C),
/// "neon-dotprod", "neon"; always at the end "scalar".
std::span<const std::string_view> available_isas();

/// `isa`, or where it is empty the one that QUERN_FORCE_ISA names, else the best. "neon" is the best of its
/// kind. An error for what is unknown or not here.
Result<std::string_view> choose_isa(std::string_view isa = {});

}  // namespace quern
