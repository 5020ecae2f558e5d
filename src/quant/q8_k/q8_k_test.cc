// The layout, by blocks made by hand.
#include "quant/q8_k/q8_k.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q8_K, StoresTheSums) {
  const auto x = normal_values(256);
  q8_k::Block block;
  find_quant(DType::Q8_K)->encode(x.data(), reinterpret_cast<std::byte*>(&block), 256, nullptr);
  for (int g = 0; g < 16; ++g) {
    int sum = 0;
    for (int j = 0; j < 16; ++j) sum += block.qs[16 * g + j];
    EXPECT_EQ(block.bsums[g], sum);
  }
  EXPECT_EQ(decode_one(DType::Q8_K, block)[77], block.d * static_cast<float>(block.qs[77]));
}

TEST(Q8_K, TheScaleIsWide) {
  std::vector<float> x(256, 0);
  x[3] = 1e30f;
  EXPECT_NEAR(encode_decode(*find_quant(DType::Q8_K), x)[3] / 1e30f, 1, 1e-6);
}

}  // namespace
}  // namespace quern
