#include "quant/q4_1/q4_1.h"

#include <cstddef>

#include "quant/codec.h"

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

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  block.m = f32_to_f16(-in.dmin);
  for (int j = 0; j < 16; ++j) block.qs[j] = static_cast<uint8_t>(in.code[j] | in.code[j + 16] << 4);
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
    codec::affine<Block, 32, AffineShape{.bits = 4, .group = 32, .zero = 0, .has_min = true}, decode, pack,
                  unpack>(DType::Q4_1, "Q4_1", &kFields);

}  // namespace quern
