#include "quant/q8_1/q8_1.h"

#include <cstddef>

#include "quant/codec.h"

namespace quern {
namespace {

using q8_1::Block;

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(block.qs[j]);
}

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  int sum = 0;
  for (int j = 0; j < 32; ++j) {
    block.qs[j] = static_cast<int8_t>(in.code[j] - 128);
    sum += block.qs[j];
  }
  block.s = codec::f16_clamped(in.d * static_cast<float>(sum));
}

void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, false);
  out.d = f16_to_f32(block.d);
  out.dmin = 0;
  for (int j = 0; j < 32; ++j) out.code[j] = static_cast<uint8_t>(block.qs[j] + 128);
}

constexpr BlockFields kFields = codec::with_runs<32>({.d = offsetof(Block, d), .flip = 128}, [](int run) {
  return codec::run_at(offsetof(Block, qs) + 16 * static_cast<size_t>(run));
});

}  // namespace

extern const QuantInfo quant_info_q8_1;
constinit const QuantInfo quant_info_q8_1 =
    codec::affine<Block, 32, AffineShape{.bits = 8, .group = 32, .zero = 128}, decode, pack, unpack>(
        DType::Q8_1, "Q8_1", &kFields);

}  // namespace quern
