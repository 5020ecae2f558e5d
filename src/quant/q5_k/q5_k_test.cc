// The layout, by blocks made by hand.
#include "quant/q5_k/q5_k.h"

#include <gtest/gtest.h>

#include "quant/scales6.h"
#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q5_K, WhereBitsLie) {
  q5_k::Block block{.d = f32_to_f16(1), .dmin = f32_to_f16(0.5f)};
  block.scales[0] = 0x43;   // scale 0: 3; bits 4–5 of scale 4: 1
  block.scales[4] = 0x87;   // min 0: 7; bits 4–5 of min 4: 2
  block.scales[8] = 0x5a;   // bits 0–3 of scale 4: 10, of min 4: 5
  block.scales[11] = 0x0c;  // bits 0–3 of scale 7: 12
  block.qs[0] = 0x09;       // weight 0: 9, weight 32: 0
  block.qh[0] = 0x11;       // bit 4 of weights 0 and 128
  block.qs[127] = 0xd0;     // weight 255: 13
  block.qh[31] = 0x80;      // bit 4 of weight 255
  const auto w = decode_one(DType::Q5_K, block);
  EXPECT_EQ(w[0], 3 * 25 - 3.5f);
  EXPECT_EQ(w[31], -3.5f);
  EXPECT_EQ(w[128], (16 + 10) * 16 - 0.5f * (32 + 5));
  EXPECT_EQ(w[255], 12 * 29);
}

TEST(Q5_K, PacksEveryScale) {
  uint8_t packed[12] = {};
  for (int g = 0; g < 8; ++g)
    put_scale6(packed, g, {static_cast<uint8_t>(63 - 7 * g), static_cast<uint8_t>(9 * g)});
  for (int g = 0; g < 8; ++g) {
    EXPECT_EQ(get_scale6(packed, g).scale, 63 - 7 * g);
    EXPECT_EQ(get_scale6(packed, g).min, 9 * g);
  }
}

}  // namespace
}  // namespace quern
