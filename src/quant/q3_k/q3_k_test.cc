// The layout, by blocks made by hand.
#include "quant/q3_k/q3_k.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q3_K, WhereBitsLie) {
  q3_k::Block block{.d = f32_to_f16(1)};  // all scales −32, all codes −4
  block.scales[0] = 0x5f;                 // low bits of scale 0: 15, of scale 8: 5
  block.scales[8] = 0x23;  // high bits of scale 0: 3, of scale 4: 0, of scale 8: 2, of scale 12: 0
  block.qs[0] = 0x02;      // weight 0
  block.qs[32] = 0x31;     // weight 128: 1, weight 192: 3
  block.hmask[0] = 0x11;   // weights 0 and 128
  const auto w = decode_one(DType::Q3_K, block);
  EXPECT_EQ(w[0], (63 - 32) * 2);
  EXPECT_EQ(w[1], 31 * -4);
  EXPECT_EQ(w[128], (5 + 32 - 32) * 1);
  EXPECT_EQ(w[129], 5 * -4);
  EXPECT_EQ(w[192], -32 * (3 - 4));
  EXPECT_EQ(w[255], -32 * -4);
}

}  // namespace
}  // namespace quern
