// The layout, by blocks made by hand.
#include "quant/q6_k/q6_k.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q6_K, WhereBitsLie) {
  q6_k::Block block{.d = f32_to_f16(0.5f)};
  block.scales[0] = 2;     // weights 0–15
  block.scales[5] = -3;    // weights 80–95
  block.scales[15] = 127;  // weights 240–255
  block.ql[0] = 0x07;      // weight 0
  block.qh[0] = 0x03;
  block.ql[16] = 0xa0;  // weight 80: the high nibble of byte 80 − 64
  block.qh[16] = 0x10;
  block.ql[127] = 0xf0;  // weight 255
  block.qh[63] = 0xc0;
  const auto w = decode_one(DType::Q6_K, block);
  EXPECT_EQ(w[0], 0.5f * 2 * (48 + 7 - 32));
  EXPECT_EQ(w[1], 0.5f * 2 * -32);
  EXPECT_EQ(w[16], 0);
  EXPECT_EQ(w[80], 0.5f * -3 * (16 + 10 - 32));
  EXPECT_EQ(w[255], 0.5f * 127 * 31);
}

}  // namespace
}  // namespace quern
