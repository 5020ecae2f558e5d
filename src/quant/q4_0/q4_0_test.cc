// The layout, by blocks made by hand.
#include "quant/q4_0/q4_0.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q4_0, LowNibblesComeFirst) {
  q4_0::Block block{.d = f32_to_f16(0.5f)};
  for (int j = 0; j < 16; ++j) block.qs[j] = static_cast<uint8_t>(j | (15 - j) << 4);
  const auto w = decode_one(DType::Q4_0, block);
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(w[j], 0.5f * static_cast<float>(j - 8));
    EXPECT_EQ(w[j + 16], 0.5f * static_cast<float>(7 - j));
  }
}

TEST(Q4_0, TheExtremeIsExactWhateverItsSign) {
  for (const float sign : {1.0f, -1.0f}) {
    std::vector<float> x(32, 0.25f);
    x[7] = 8 * sign;
    EXPECT_EQ(encode_decode(*find_quant(DType::Q4_0), x)[7], 8 * sign);
  }
}

}  // namespace
}  // namespace quern
