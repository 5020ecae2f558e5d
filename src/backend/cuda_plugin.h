// The CUDA backend lies beside the program as libquern_cuda.so, so that one installation runs with and
// without a GPU: nothing of CUDA is needed until it is asked for.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quern {

/// GPU `index`, counted as CUDA_VISIBLE_DEVICES leaves them. unsupported: the plug-in is not there, or is of
/// another build, or the GPU is too old; unavailable: there is no driver or no such GPU.
Result<std::unique_ptr<Backend>> open_cuda(int index, const GpuOptions& options = {});

/// Whether the plug-in is there.
bool has_cuda_plugin();

}  // namespace quern
