#include "quant/q5_0/q5_0.h"

#include <cstring>

#include "quant/codec.h"

namespace quern {
namespace {

using q5_0::Block;

// Bit 4 of code j.
int high_bit(const Block& block, int j) { return (block.qh[j / 8] >> (j % 8) & 1) << 4; }

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(((block.qs[j] & 15) | high_bit(block, j)) - 16);
    out[j + 16] = d * static_cast<float>(((block.qs[j] >> 4) | high_bit(block, j + 16)) - 16);
  }
}

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  codec::put_five_bits(in.code, block.qs, block.qh);
}

void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, false);
  out.d = f16_to_f32(block.d);
  out.dmin = 0;
  uint32_t high;
  std::memcpy(&high, block.qh, sizeof(high));
  for (int j = 0; j < 32; ++j)
    out.code[j] = static_cast<uint8_t>(((block.qs[j % 16] >> (j / 16 * 4)) & 15) | (high >> j & 1) << 4);
}

}  // namespace

extern const QuantInfo quant_info_q5_0;
constinit const QuantInfo quant_info_q5_0 =
    codec::affine<Block, 32, AffineShape{.bits = 5, .group = 32, .zero = 16}, decode, pack, unpack>(
        DType::Q5_0, "Q5_0");

}  // namespace quern
