// F16: IEEE binary16, little-endian. Encoding rounds to nearest even; beyond ±65504 it becomes infinity.
#include <cstring>

#include "core/half.h"
#include "quant/quant.h"

namespace quern {
namespace {

void decode(const std::byte* blocks, float* out, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, blocks + i * sizeof(bits), sizeof(bits));
    out[i] = f16_to_f32(bits);
  }
}

void encode(const float* in, std::byte* blocks, size_t n, const float*) {
  for (size_t i = 0; i < n; ++i) {
    const uint16_t bits = f32_to_f16(in[i]);
    std::memcpy(blocks + i * sizeof(bits), &bits, sizeof(bits));
  }
}

}  // namespace

extern const QuantInfo quant_info_f16;
constinit const QuantInfo quant_info_f16 = {DType::F16, "F16",  1,      2,      Family::floating,
                                            {},         decode, encode, nullptr};

}  // namespace quern
