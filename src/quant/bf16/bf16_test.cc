#include <gtest/gtest.h>

#include "quant/quant.h"

namespace quern {
namespace {

TEST(BF16, DecodesKnownBits) {
  const uint16_t bits[3] = {0x3f80, 0xc000, 0x0001};
  float out[3];
  find_quant(DType::BF16)->decode(reinterpret_cast<const std::byte*>(bits), out, 3);
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[1], -2);
  EXPECT_EQ(out[2], 0x1p-133f);
}

}  // namespace
}  // namespace quern
