#include "quant/q2_k/q2_k.h"

#include <cstddef>

#include "quant/codec.h"

namespace quern {
namespace {

using q2_k::Block;

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  const uint8_t* scale = block.scales;
  for (int half = 0; half < 2; ++half) {
    const uint8_t* qs = block.qs + 32 * half;
    for (int shift = 0; shift < 8; shift += 2) {
      for (int part = 0; part < 2; ++part, ++scale) {
        const float ds = d * static_cast<float>(*scale & 15);
        const float m = dmin * static_cast<float>(*scale >> 4);
        for (int l = 0; l < 16; ++l) *out++ = ds * static_cast<float>(qs[16 * part + l] >> shift & 3) - m;
      }
    }
  }
}

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  block.dmin = f32_to_f16(in.dmin);
  for (int g = 0; g < 16; ++g) block.scales[g] = static_cast<uint8_t>(in.scale[g] | in.min[g] << 4);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* code = in.code + 128 * half;
    for (int l = 0; l < 32; ++l)
      block.qs[32 * half + l] =
          static_cast<uint8_t>(code[l] | code[l + 32] << 2 | code[l + 64] << 4 | code[l + 96] << 6);
  }
}

void unpack(const Block& block, AffineBlock& out) {
  out.d = f16_to_f32(block.d);
  out.dmin = f16_to_f32(block.dmin);
  for (int g = 0; g < 16; ++g) {
    out.scale[g] = block.scales[g] & 15;
    out.min[g] = block.scales[g] >> 4;
  }
  codec::fill_codes(out, [&](int run, int i) { return block.qs[run / 4 * 32 + i] >> (run % 4 * 2) & 3; });
}

void scales(const std::byte* blocks, size_t stride, int8_t (*scale)[16], uint8_t (*min)[16]) {
  for (int r = 0; r < 16; ++r, blocks += stride) {
    for (int g = 0; g < 16; ++g) {
      const auto both = static_cast<uint8_t>(blocks[offsetof(Block, scales) + g]);
      scale[g][r] = static_cast<int8_t>(both & 15);
      min[g][r] = both >> 4;
    }
  }
}

constexpr BlockFields kFields = codec::with_runs<256>(
    {.d = offsetof(Block, d), .dmin = offsetof(Block, dmin), .scales = scales}, [](int run) {
      return codec::run_at(offsetof(Block, qs) + run / 8 * 32 + run % 2 * 16, run % 8 / 2 * 2);
    });

}  // namespace

extern const QuantInfo quant_info_q2_k;
constinit const QuantInfo quant_info_q2_k = codec::affine<
    Block, 256,
    AffineShape{.bits = 2, .group = 16, .zero = 0, .has_min = true, .has_scales = true, .scale_limit = 15},
    decode, pack, unpack>(DType::Q2_K, "Q2_K", &kFields);

}  // namespace quern
