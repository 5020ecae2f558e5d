#pragma once

#include "backend/cuda/weight.h"

namespace quern::cuda {

/// Multiplies a vector by a matrix in groups that has just been loaded, with the kernel that decodes with it,
/// and compares some rows with what the file's numbers give: internal, naming the tensor, when they disagree;
/// corrupt when a scale is not finite. Runs beside the device's stream.
Result<> check_grouped(const RawTensor& tensor, const CudaWeight& weight,
                       const std::shared_ptr<Device>& device);

}  // namespace quern::cuda
