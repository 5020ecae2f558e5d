// The layout, by blocks made by hand.
#include "quant/q5_0/q5_0.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q5_0, FifthBitsAreOneWord) {
  q5_0::Block block{.d = f32_to_f16(1)};
  block.qh[0] = 0x02;  // weight 1
  block.qh[3] = 0x80;  // weight 31
  block.qs[1] = 0x03;
  block.qs[15] = 0xf0;
  const auto w = decode_one(DType::Q5_0, block);
  EXPECT_EQ(w[0], -16);
  EXPECT_EQ(w[1], 16 + 3 - 16);
  EXPECT_EQ(w[17], -16);
  EXPECT_EQ(w[15], -16);
  EXPECT_EQ(w[31], 15);
}

}  // namespace
}  // namespace quern
