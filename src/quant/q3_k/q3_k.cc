#include "quant/q3_k/q3_k.h"

#include <cstddef>

#include "quant/codec.h"

namespace quern {
namespace {

using q3_k::Block;

int scale_of(const Block& block, int g) {
  const int low = block.scales[g % 8] >> (g / 8 * 4) & 15;
  const int high = block.scales[8 + g % 4] >> (g / 4 * 2) & 3;
  return (low | high << 4) - 32;
}

void decode(const Block& block, float* out) {
  const float d = f16_to_f32(block.d);
  int group = 0;
  for (int half = 0; half < 2; ++half) {
    const uint8_t* qs = block.qs + 32 * half;
    for (int pair = 0; pair < 4; ++pair) {
      const int high = 1 << (4 * half + pair);
      for (int part = 0; part < 2; ++part, ++group) {
        const float ds = d * static_cast<float>(scale_of(block, group));
        for (int l = 16 * part; l < 16 * part + 16; ++l) {
          const int low = qs[l] >> (2 * pair) & 3;
          *out++ = ds * static_cast<float>(low - ((block.hmask[l] & high) != 0 ? 0 : 4));
        }
      }
    }
  }
}

void pack(const AffineBlock& in, Block& block) {
  block.d = f32_to_f16(in.d);
  for (int g = 0; g < 16; ++g) {
    const int scale = in.scale[g] + 32;
    block.scales[g % 8] = static_cast<uint8_t>(block.scales[g % 8] | (scale & 15) << (g / 8 * 4));
    block.scales[8 + g % 4] = static_cast<uint8_t>(block.scales[8 + g % 4] | (scale >> 4) << (g / 4 * 2));
  }
  for (int half = 0; half < 2; ++half) {
    const uint8_t* code = in.code + 128 * half;
    for (int l = 0; l < 32; ++l) {
      block.qs[32 * half + l] = static_cast<uint8_t>((code[l] & 3) | (code[l + 32] & 3) << 2 |
                                                     (code[l + 64] & 3) << 4 | (code[l + 96] & 3) << 6);
      const int high =
          code[l] >> 2 | code[l + 32] >> 2 << 1 | code[l + 64] >> 2 << 2 | code[l + 96] >> 2 << 3;
      block.hmask[l] = static_cast<uint8_t>(block.hmask[l] | high << (4 * half));
    }
  }
}

void unpack(const Block& block, AffineBlock& out) {
  codec::unit_scales(out, false);
  out.d = f16_to_f32(block.d);
  out.dmin = 0;
  for (int g = 0; g < 16; ++g) out.scale[g] = static_cast<int16_t>(scale_of(block, g));
  codec::fill_codes(out, [&](int run, int i) {
    const int low = block.qs[run / 4 * 32 + i] >> (run % 4 * 2) & 3;
    return low | (block.hmask[i] >> run & 1) << 2;
  });
}

void scales(const std::byte* blocks, size_t stride, int8_t (*scale)[16], uint8_t (*)[16]) {
  uint32_t words[3][16];
  codec::read_words(blocks + offsetof(Block, scales), stride, words);
  for (int g = 0; g < 16; ++g) {
    const uint32_t* low = words[g % 8 / 4];
    const int low_at = g % 4 * 8 + g / 8 * 4, high_at = g % 4 * 8 + g / 4 * 2;
    for (int r = 0; r < 16; ++r) {
      const uint32_t value = (low[r] >> low_at & 15) | (words[2][r] >> high_at & 3) << 4;
      scale[g][r] = static_cast<int8_t>(static_cast<int>(value) - 32);
    }
  }
}

constexpr BlockFields kFields = codec::with_runs<256>(
    {.d = offsetof(Block, d), .scales = scales},
    [](int run) { return codec::run_at(offsetof(Block, qs) + run / 8 * 32 + run % 2 * 16, run % 8 / 2 * 2); },
    [](int run) { return codec::run_at(offsetof(Block, hmask) + run % 2 * 16, run / 2); });

}  // namespace

extern const QuantInfo quant_info_q3_k;
constinit const QuantInfo quant_info_q3_k =
    codec::affine<Block, 256,
                  AffineShape{.bits = 3, .group = 16, .zero = 4, .has_scales = true, .scale_limit = 32},
                  decode, pack, unpack>(DType::Q3_K, "Q3_K", &kFields);

}  // namespace quern
