#include <gtest/gtest.h>

#include "quant/quant.h"

namespace quern {
namespace {

TEST(F16, DecodesKnownBits) {
  const uint16_t bits[4] = {0x3c00, 0xc000, 0x7bff, 0x0001};
  float out[4];
  find_quant(DType::F16)->decode(reinterpret_cast<const std::byte*>(bits), out, 4);
  EXPECT_EQ(out[0], 1);
  EXPECT_EQ(out[1], -2);
  EXPECT_EQ(out[2], 65504);
  EXPECT_EQ(out[3], 0x1p-24f);
}

}  // namespace
}  // namespace quern
