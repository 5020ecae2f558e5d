#include "quant/q5_k/q5_k.h"

#include <cstddef>

#include "quant/codec.h"
#include "quant/fit.h"
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

void encode(const float* x, const float* importance, Block& block) {
  const GroupedFit fit = fit_groups<32>(x, importance, {.code_max = 31, .scale_max = 63});
  block.d = fit.d;
  block.dmin = fit.dmin;
  for (int g = 0; g < 8; ++g)
    put_scale6(block.scales, g, {static_cast<uint8_t>(fit.scale[g]), static_cast<uint8_t>(fit.min[g])});
  for (int k = 0; k < 256; ++k) {
    uint8_t& low = block.qs[k / 64 * 32 + k % 32];
    low = static_cast<uint8_t>(low | (fit.code[k] & 15) << (k % 64 / 32 * 4));
    block.qh[k % 32] = static_cast<uint8_t>(block.qh[k % 32] | (fit.code[k] >> 4) << (k / 32));
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
constinit const QuantInfo quant_info_q5_k =
    codec::affine<Block, 256,
                  AffineShape{.bits = 5, .group = 32, .zero = 0, .has_min = true, .has_scales = true}, decode,
                  encode, unpack>(DType::Q5_K, "Q5_K", &kFields);

}  // namespace quern
