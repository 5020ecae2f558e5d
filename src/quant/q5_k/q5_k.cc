#include "quant/q5_k/q5_k.h"

#include <cstddef>

#include "quant/codec.h"
#include "quant/scales6.h"

namespace quern {
namespace {

using q5_k::Block;

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int g = 0; g < 8; ++g) {
    const ScaleAndMin sm = get_scale6(block.scales, g);
    const float ds = d * static_cast<float>(sm.scale);
    const float m = dmin * static_cast<float>(sm.min);
    const uint8_t* qs = block.qs + g / 2 * 32;
    const int shift = g % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int code = (qs[l] >> shift & 15) + ((block.qh[l] & 1 << g) != 0 ? 16 : 0);
      *out++ = ds * static_cast<float>(code) - m;
    }
  }
}

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  block.dmin = f32_to_f16(in.dmin);
  for (int g = 0; g < 8; ++g) put_scale6(block.scales, g, {static_cast<uint8_t>(in.scale[g]), in.min[g]});
  for (int pair = 0; pair < 4; ++pair) {
    const uint8_t* code = in.code + 64 * pair;
    for (int l = 0; l < 32; ++l) {
      block.qs[32 * pair + l] = static_cast<uint8_t>((code[l] & 15) | (code[l + 32] & 15) << 4);
      const int high = code[l] >> 4 | code[l + 32] >> 4 << 1;
      block.qh[l] = static_cast<uint8_t>(block.qh[l] | high << (2 * pair));
    }
  }
}

void unpack(const Block& block, AffineBlock& out) {
  out.d = f16_to_f32(block.d);
  out.dmin = f16_to_f32(block.dmin);
  for (int g = 0; g < 8; ++g) {
    const ScaleAndMin sm = get_scale6(block.scales, g);
    out.scale[g] = sm.scale;
    out.min[g] = sm.min;
  }
  codec::fill_codes(out, [&](int run, int i) {
    const int low = block.qs[run / 2 * 32 + i] >> (run % 2 * 4) & 15;
    return low | (block.qh[i] >> run & 1) << 4;
  });
}

void scales(const std::byte* blocks, size_t stride, int8_t (*scale)[16], uint8_t (*min)[16]) {
  get_scales6(blocks + offsetof(Block, scales), stride, scale, min);
}

constexpr BlockFields kFields = codec::with_runs<256>(
    {.d = offsetof(Block, d), .dmin = offsetof(Block, dmin), .scales = scales},
    [](int run) { return codec::run_at(offsetof(Block, qs) + run / 4 * 32 + run % 2 * 16, run % 4 / 2 * 4); },
    [](int run) { return codec::run_at(offsetof(Block, qh) + run % 2 * 16, run / 2); });

}  // namespace

extern const QuantInfo quant_info_q5_k;
constinit const QuantInfo quant_info_q5_k = codec::affine<
    Block, 256,
    AffineShape{.bits = 5, .group = 32, .zero = 0, .has_min = true, .has_scales = true, .scale_limit = 63},
    decode, pack, unpack>(DType::Q5_K, "Q5_K", &kFields);

}  // namespace quern
