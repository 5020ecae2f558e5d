// The layout, by blocks made by hand.
#include "quant/q4_1/q4_1.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q4_1, ScaleThenOffset) {
  q4_1::Block block{.d = f32_to_f16(2), .m = f32_to_f16(-3)};
  block.qs[0] = 0xf1;
  block.qs[15] = 0x20;
  const auto w = decode_one(DType::Q4_1, block);
  EXPECT_EQ(w[0], 2 * 1 - 3);
  EXPECT_EQ(w[16], 2 * 15 - 3);
  EXPECT_EQ(w[15], -3);
  EXPECT_EQ(w[31], 2 * 2 - 3);
}

}  // namespace
}  // namespace quern
