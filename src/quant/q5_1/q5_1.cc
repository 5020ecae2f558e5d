#include "quant/q5_1/q5_1.h"

#include <cstring>

#include "quant/codec.h"

namespace quern {
namespace {

using q5_1::Block;

// Bit 4 of code j.
int high_bit(const Block& block, int j) { return (block.qh[j / 8] >> (j % 8) & 1) << 4; }

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block.qs[j] & 15) | high_bit(block, j)) + m;
    out[j + 16] = d * static_cast<float>((block.qs[j] >> 4) | high_bit(block, j + 16)) + m;
  }
}

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  block.m = f32_to_f16(-in.dmin);
  codec::put_five_bits(in.code, block.qs, block.qh);
}

// m is added and dmin · min subtracted, hence the sign.
void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, true);
  out.d = f16_to_f32(block.d);
  out.dmin = -f16_to_f32(block.m);
  uint32_t high;
  std::memcpy(&high, block.qh, sizeof(high));
  for (int j = 0; j < 32; ++j)
    out.code[j] = static_cast<uint8_t>(((block.qs[j % 16] >> (j / 16 * 4)) & 15) | (high >> j & 1) << 4);
}

}  // namespace

extern const QuantInfo quant_info_q5_1;
constinit const QuantInfo quant_info_q5_1 =
    codec::affine<Block, 32, AffineShape{.bits = 5, .group = 32, .zero = 0, .has_min = true}, decode, pack,
                  unpack>(DType::Q5_1, "Q5_1");

}  // namespace quern
