#include "quant/q8_k/q8_k.h"

#include <cstddef>

#include "quant/codec.h"
#include "quant/fit.h"

namespace quern {
namespace {

using q8_k::Block;

void decode(const Block& block, float* out) {
  for (int j = 0; j < 256; ++j) out[j] = block.d * static_cast<float>(block.qs[j]);
}

void encode(const float* x, const float*, Block& block) {
  block.d = largest_magnitude({x, 256}) / 127;
  const float inverse = codec::inverse_of(block.d);
  if (inverse == 0) block.d = 0;
  for (int j = 0; j < 256; ++j) {
    block.qs[j] = static_cast<int8_t>(codec::code_of(x[j], inverse, -127, 127));
    block.bsums[j / 16] = static_cast<int16_t>(block.bsums[j / 16] + block.qs[j]);
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
    codec::affine<Block, 256, AffineShape{.bits = 8, .group = 256, .zero = 128, .wide_d = true}, decode,
                  encode, unpack>(DType::Q8_K, "Q8_K", &kFields);

}  // namespace quern
