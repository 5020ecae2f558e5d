#include "quant/q8_k/q8_k.h"

#include <cstddef>

#include "quant/codec.h"

namespace quern {
namespace {

using q8_k::Block;

void decode(const Block& block, float* out) {
  for (int j = 0; j < 256; ++j) out[j] = block.d * static_cast<float>(block.qs[j]);
}

void pack(const AffineBlock& in, Block& block) {
  block.d = in.d;
  for (int j = 0; j < 256; ++j) block.qs[j] = static_cast<int8_t>(in.code[j] - 128);
  for (int g = 0; g < 16; ++g) {
    int sum = 0;
    for (int j = 0; j < 16; ++j) sum += block.qs[16 * g + j];
    block.bsums[g] = static_cast<int16_t>(sum);
  }
}

void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, false);
  out.d = block.d;
  out.dmin = 0;
  for (int j = 0; j < 256; ++j) out.code[j] = static_cast<uint8_t>(block.qs[j] + 128);
}

constexpr BlockFields kFields = codec::with_runs<256>({.d = offsetof(Block, d), .flip = 128}, [](int run) {
  return codec::run_at(offsetof(Block, qs) + 16 * static_cast<size_t>(run));
});

}  // namespace

extern const QuantInfo quant_info_q8_k;
constinit const QuantInfo quant_info_q8_k =
    codec::affine<Block, 256, AffineShape{.bits = 8, .group = 256, .zero = 128, .wide_d = true}, decode, pack,
                  unpack>(DType::Q8_K, "Q8_K", &kFields);

}  // namespace quern
