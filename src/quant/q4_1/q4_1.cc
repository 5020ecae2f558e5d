#include "quant/q4_1/q4_1.h"

#include <cstddef>

#include "quant/codec.h"
#include "quant/fit.h"

namespace quern {
namespace {

using q4_1::Block;

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(block.qs[j] & 15) + m;
    out[j + 16] = d * static_cast<float>(block.qs[j] >> 4) + m;
  }
}

void encode(const float* x, const float* importance, Block& block) {
  const auto [scale, min] = fit_legacy_range({x, 32}, importance, 15);
  block.d = codec::f16_scale(scale);
  block.m = codec::f16_clamped(min);
  const float inverse = codec::inverse_of(f16_to_f32(block.d));
  const float m = f16_to_f32(block.m);
  for (int j = 0; j < 16; ++j) {
    const auto low = static_cast<int>(codec::code_of(x[j] - m, inverse, 0, 15));
    const auto high = static_cast<int>(codec::code_of(x[j + 16] - m, inverse, 0, 15));
    block.qs[j] = static_cast<uint8_t>(low | high << 4);
  }
}

// m is added and dmin · min subtracted, hence the sign.
void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, true);
  out.d = f16_to_f32(block.d);
  out.dmin = -f16_to_f32(block.m);
  for (int j = 0; j < 32; ++j) out.code[j] = (block.qs[j % 16] >> (j / 16 * 4)) & 15;
}

constexpr BlockFields kFields =
    codec::with_runs<32>({.d = offsetof(Block, d), .dmin = offsetof(Block, m), .negative_min = true},
                         [](int run) { return codec::run_at(offsetof(Block, qs), 4 * run); });

}  // namespace

extern const QuantInfo quant_info_q4_1;
constinit const QuantInfo quant_info_q4_1 =
    codec::affine<Block, 32, AffineShape{.bits = 4, .group = 32, .zero = 0, .has_min = true}, decode, encode,
                  unpack>(DType::Q4_1, "Q4_1", &kFields);

}  // namespace quern
