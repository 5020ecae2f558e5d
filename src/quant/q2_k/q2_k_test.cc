// The layout, by blocks made by hand.
#include "quant/q2_k/q2_k.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q2_K, WhereBitsLie) {
  q2_k::Block block{.d = f32_to_f16(1), .dmin = f32_to_f16(0.5f)};
  block.scales[0] = 0x25;   // weights 0–15: scale 5, min 2
  block.scales[3] = 0x03;   // weights 48–63
  block.scales[15] = 0x1f;  // weights 240–255
  block.qs[0] = 0x03;       // weight 0
  block.qs[16] = 0x08;      // weight 48: second pair of bits, second half of the 32 bytes
  block.qs[63] = 0xc0;      // weight 255
  const auto w = decode_one(DType::Q2_K, block);
  EXPECT_EQ(w[0], 5 * 3 - 1);
  EXPECT_EQ(w[1], -1);
  EXPECT_EQ(w[16], 0);
  EXPECT_EQ(w[48], 3 * 2);
  EXPECT_EQ(w[254], -0.5f);
  EXPECT_EQ(w[255], 15 * 3 - 0.5f);
}

}  // namespace
}  // namespace quern
