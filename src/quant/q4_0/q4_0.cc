#include "quant/q4_0/q4_0.h"

#include <cstddef>

#include "quant/codec.h"
#include "quant/fit.h"

namespace quern {
namespace {

using q4_0::Block;

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block.qs[j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((block.qs[j] >> 4) - 8);
  }
}

void encode(const float* x, const float* importance, Block& block) {
  block.d = codec::f16_scale(fit_legacy_scale({x, 32}, importance, 8));
  const float inverse = codec::inverse_of(f16_to_f32(block.d));
  for (int j = 0; j < 16; ++j) {
    const auto low = static_cast<int>(codec::code_of(x[j], inverse, -8, 7)) + 8;
    const auto high = static_cast<int>(codec::code_of(x[j + 16], inverse, -8, 7)) + 8;
    block.qs[j] = static_cast<uint8_t>(low | high << 4);
  }
}

void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, false);
  out.d = f16_to_f32(block.d);
  out.dmin = 0;
  for (int j = 0; j < 32; ++j) out.code[j] = (block.qs[j % 16] >> (j / 16 * 4)) & 15;
}

constexpr BlockFields kFields = codec::with_runs<32>(
    {.d = offsetof(Block, d)}, [](int run) { return codec::run_at(offsetof(Block, qs), 4 * run); });

}  // namespace

extern const QuantInfo quant_info_q4_0;
constinit const QuantInfo quant_info_q4_0 =
    codec::affine<Block, 32, AffineShape{.bits = 4, .group = 32, .zero = 8}, decode, encode, unpack>(
        DType::Q4_0, "Q4_0", &kFields);

}  // namespace quern
