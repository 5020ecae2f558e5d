// The layout, by blocks made by hand.
#include "quant/q5_1/q5_1.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q5_1, FifthBitsAreOneWord) {
  q5_1::Block block{.d = f32_to_f16(1), .m = f32_to_f16(-4)};
  block.qh[1] = 0x01;  // weight 8
  block.qh[2] = 0x01;  // weight 16
  block.qs[8] = 0x05;
  block.qs[0] = 0x70;
  const auto w = decode_one(DType::Q5_1, block);
  EXPECT_EQ(w[0], -4);
  EXPECT_EQ(w[8], 16 + 5 - 4);
  EXPECT_EQ(w[16], 16 + 7 - 4);
  EXPECT_EQ(w[24], -4);
}

}  // namespace
}  // namespace quern
