// The layout, by blocks made by hand.
#include "quant/q8_1/q8_1.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q8_1, StoresTheScaledSum) {
  std::vector<float> x(32);
  for (int j = 0; j < 32; ++j) x[j] = static_cast<float>(j - 10);
  q8_1::Block block;
  find_quant(DType::Q8_1)->encode(x.data(), reinterpret_cast<std::byte*>(&block), 32, nullptr);
  int sum = 0;
  for (const int8_t q : block.qs) sum += q;
  EXPECT_EQ(block.s, f32_to_f16(f16_to_f32(block.d) * static_cast<float>(sum)));
  EXPECT_NEAR(f16_to_f32(block.s), 176, 2);  // Σx
}

TEST(Q8_1, TheSumIsNoPartOfTheValues) {
  q8_1::Block block{.d = f32_to_f16(1), .s = f32_to_f16(1000)};
  block.qs[5] = -128;
  EXPECT_EQ(decode_one(DType::Q8_1, block)[5], -128);
  EXPECT_EQ(decode_one(DType::Q8_1, block)[6], 0);
}

}  // namespace
}  // namespace quern
