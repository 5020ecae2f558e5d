#include <gtest/gtest.h>

#include "quant/quant.h"

namespace quern {
namespace {

TEST(F32, DecodesKnownBits) {
  const float in[2] = {0x1p-149f, -3e38f};
  float out[2];
  find_quant(DType::F32)->decode(reinterpret_cast<const std::byte*>(in), out, 2);
  EXPECT_EQ(out[0], in[0]);
  EXPECT_EQ(out[1], in[1]);
}

}  // namespace
}  // namespace quern
