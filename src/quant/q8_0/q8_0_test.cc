// The layout, by blocks made by hand.
#include "quant/q8_0/q8_0.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q8_0, SignedBytesInOrder) {
  q8_0::Block block{.d = f32_to_f16(0.25f)};
  for (int j = 0; j < 32; ++j) block.qs[j] = static_cast<int8_t>(j % 2 == 0 ? j : -j - 97);
  const auto w = decode_one(DType::Q8_0, block);
  EXPECT_EQ(w[2], 0.5f);
  EXPECT_EQ(w[31], -32);
}

}  // namespace
}  // namespace quern
