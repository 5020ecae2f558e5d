// Element types of stored tensors. The numbers are GGUF's (ggml_type), so that files need no translation.
#pragma once

#include <cstdint>

namespace quern {

enum class DType : uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q8_1 = 9,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  Q8_K = 15,
  BF16 = 30,
  // Not GGUF's: codes, scales and zero points in tensors of their own; see RawTensor::grouped.
  Grouped = 0x10000,
};

}  // namespace quern
