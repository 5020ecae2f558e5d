// A look at a few rows of a grouped weight at load.
#pragma once

#include "backend/cpu/weight.h"
#include "core/result.h"

namespace quern::cpu {

/// Computes a few rows of the weight as multiplying will do it (tiles packed and multiplied by these kernels,
/// inputs put into its order and quantized) for an input that int8 holds exactly, and compares them with what
/// the file's own words say. Fails by the tensor's name: internal when they disagree, corrupt when the file's
/// numbers are not finite.
Result<> check_grouped(const Kernels& kernels, const CpuWeight& weight);

}  // namespace quern::cpu
