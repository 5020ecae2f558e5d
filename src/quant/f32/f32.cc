// F32: IEEE binary32, little-endian.
#include <cstring>

#include "quant/quant.h"

namespace quern {
namespace {

void decode(const std::byte* blocks, float* out, size_t n) {
  if (n != 0) std::memcpy(out, blocks, n * sizeof(float));
}

void encode(const float* in, std::byte* blocks, size_t n, const float*) {
  if (n != 0) std::memcpy(blocks, in, n * sizeof(float));
}

}  // namespace

extern const QuantInfo quant_info_f32;
constinit const QuantInfo quant_info_f32 = {DType::F32, "F32",  1,      4,      Family::floating,
                                            {},         decode, encode, nullptr};

}  // namespace quern
