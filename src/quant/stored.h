// Stored tensors before a backend takes them over: whether they are what they say. Errors name the tensor.
#pragma once

#include <vector>

#include "core/result.h"
#include "core/tensor.h"

namespace quern {

/// A matrix, or a stack of them: a known type, 2 or 3 dimensions, each of 1 to 2^30, bytes that fit. Not for
/// DType::Grouped.
Result<> check_matrix(const RawTensor& tensor);

/// A 1-D tensor of any type, as f32.
Result<std::vector<float>> decode_vector(const RawTensor& tensor);

}  // namespace quern
