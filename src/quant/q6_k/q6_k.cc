#include "quant/q6_k/q6_k.h"

#include <algorithm>
#include <cstddef>

#include "quant/codec.h"

namespace quern {
namespace {

using q6_k::Block;

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int half = 0; half < 2; ++half, out += 128) {
    const uint8_t* ql = block.ql + 64 * half;
    const uint8_t* qh = block.qh + 32 * half;
    for (int l = 0; l < 32; ++l) {
      const int8_t* scale = block.scales + 8 * half + l / 16;
      const int q0 = ((ql[l] & 15) | (qh[l] & 3) << 4) - 32;
      const int q1 = ((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32;
      const int q2 = (ql[l] >> 4 | (qh[l] >> 4 & 3) << 4) - 32;
      const int q3 = (ql[l + 32] >> 4 | qh[l] >> 6 << 4) - 32;
      out[l] = d * scale[0] * static_cast<float>(q0);
      out[l + 32] = d * scale[2] * static_cast<float>(q1);
      out[l + 64] = d * scale[4] * static_cast<float>(q2);
      out[l + 96] = d * scale[6] * static_cast<float>(q3);
    }
  }
}

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  for (int g = 0; g < 16; ++g) block.scales[g] = static_cast<int8_t>(in.scale[g]);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* code = in.code + 128 * half;
    for (int l = 0; l < 64; ++l)
      block.ql[64 * half + l] = static_cast<uint8_t>((code[l] & 15) | (code[l + 64] & 15) << 4);
    for (int l = 0; l < 32; ++l)
      block.qh[32 * half + l] = static_cast<uint8_t>(code[l] >> 4 | code[l + 32] >> 4 << 2 |
                                                     code[l + 64] >> 4 << 4 | code[l + 96] >> 4 << 6);
  }
}

void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, false);
  out.d = f16_to_f32(block.d);
  out.dmin = 0;
  std::ranges::copy(block.scales, out.scale);
  codec::fill_codes(out, [&](int run, int i) {
    const int low = block.ql[run / 4 * 64 + run % 2 * 32 + i] >> (run % 4 / 2 * 4) & 15;
    return low | (block.qh[run / 4 * 32 + i] >> (run % 4 * 2) & 3) << 4;
  });
}

void scales(const std::byte* blocks, size_t stride, int8_t (*scale)[16], uint8_t (*)[16]) {
  for (int r = 0; r < 16; ++r, blocks += stride)
    for (int g = 0; g < 16; ++g) scale[g][r] = static_cast<int8_t>(blocks[offsetof(Block, scales) + g]);
}

constexpr BlockFields kFields = codec::with_runs<256>(
    {.d = offsetof(Block, d), .scales = scales},
    [](int run) {
      const int at = run / 8 * 64 + run / 2 % 2 * 32 + run % 2 * 16;
      return codec::run_at(offsetof(Block, ql) + at, run % 8 / 4 * 4);
    },
    [](int run) {
      return codec::run_at(offsetof(Block, qh) + run / 8 * 32 + run % 2 * 16, run % 8 / 2 * 2);
    });

}  // namespace

extern const QuantInfo quant_info_q6_k;
constinit const QuantInfo quant_info_q6_k =
    codec::affine<Block, 256,
                  AffineShape{.bits = 6, .group = 16, .zero = 32, .has_scales = true, .scale_limit = 128},
                  decode, pack, unpack>(DType::Q6_K, "Q6_K", &kFields);

}  // namespace quern
