// One type for a whole model, with the exceptions that quality or shapes ask for.
#pragma once

#include "models/gguf_tensors.h"
#include "models/quantization_report.h"

namespace quern {

/// `type` for every matrix, but: the embedding and the head are promoted (types of 2 to 4 bits → Q6_K, of 5
/// to 8 bits → Q8_0), routers of experts and vectors stay F32, and a row that is not a whole number of
/// blocks falls back as in llama.cpp (Q2_K and Q3_K → Q4_0, Q4_K → Q5_0, Q5_K → Q5_1, Q6_K and Q8_K → Q8_0,
/// what is not a multiple of 32 → F16).
TypeChoice single_type(DType type, const GgufTensorPlan& tensor);

/// Without the promotion.
TypeChoice pure_type(DType type, const GgufTensorPlan& tensor);

/// The type itself, or the one that takes its place for rows of `cols`.
DType fallback_type(DType type, int64_t cols);

}  // namespace quern
