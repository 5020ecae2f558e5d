// A device's arithmetic against the host's, before anybody relies on it.
#pragma once

#include "backend/cuda/cuda_backend.h"

namespace quern::cuda {

/// Multiplies small random matrices of every format, and of GPTQ's bits, by few and by many rows, and attends
/// to a short sequence; fails by naming what came out wrong. About a second on a GPU.
Result<> self_check(CudaBackend& backend);

}  // namespace quern::cuda
