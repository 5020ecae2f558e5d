// BF16: the upper half of an IEEE binary32, little-endian. Encoding rounds to nearest even.
#include <cstring>

#include "core/half.h"
#include "quant/quant.h"

namespace quern {
namespace {

void decode(const std::byte* blocks, float* out, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, blocks + i * sizeof(bits), sizeof(bits));
    out[i] = bf16_to_f32(bits);
  }
}

void encode(const float* in, std::byte* blocks, size_t n, const float*) {
  for (size_t i = 0; i < n; ++i) {
    const uint16_t bits = f32_to_bf16(in[i]);
    std::memcpy(blocks + i * sizeof(bits), &bits, sizeof(bits));
  }
}

}  // namespace

extern const QuantInfo quant_info_bf16;
constinit const QuantInfo quant_info_bf16 = {DType::BF16, "BF16", 1,      2,      Family::floating,
                                             {},          decode, encode, nullptr};

}  // namespace quern
