// The layout, by blocks made by hand.
#include "quant/q4_k/q4_k.h"

#include <gtest/gtest.h>

#include "quant/test_util.h"

namespace quern {
namespace {

TEST(Q4_K, WhereBitsLie) {
  q4_k::Block block{.d = f32_to_f16(1), .dmin = f32_to_f16(0.5f)};
  block.scales[0] = 0x43;   // scale 0: 3; bits 4–5 of scale 4: 1
  block.scales[4] = 0x87;   // min 0: 7; bits 4–5 of min 4: 2
  block.scales[8] = 0x5a;   // bits 0–3 of scale 4: 10, of min 4: 5
  block.scales[11] = 0x0c;  // bits 0–3 of scale 7: 12
  block.qs[0] = 0x09;       // weight 0: 9, weight 32: 0
  block.qs[64] = 0x0b;      // weight 128: 11
  block.qs[127] = 0xd0;     // weight 255: 13
  const auto w = decode_one(DType::Q4_K, block);
  EXPECT_EQ(w[0], 3 * 9 - 3.5f);
  EXPECT_EQ(w[31], -3.5f);
  EXPECT_EQ(w[32], 0);
  EXPECT_EQ(w[128], (16 + 10) * 11 - 0.5f * (32 + 5));
  EXPECT_EQ(w[159], -18.5f);
  EXPECT_EQ(w[255], 12 * 13);
}

}  // namespace
}  // namespace quern
