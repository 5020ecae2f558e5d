#include "backend/cpu/machine.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace quern {
namespace {

TEST(Machine, LimitsAreMeasured) {
  const auto one = measure_machine(1);
  ASSERT_TRUE(one.has_value());
  EXPECT_EQ(one->threads, 1);
  EXPECT_FALSE(one->cpu.empty());
  EXPECT_FALSE(one->isa.empty());
  EXPECT_GT(one->read_gb_s, 0.01);
  EXPECT_LT(one->read_gb_s, 2000);  // no machine reads faster: then nothing was read
  EXPECT_GT(one->int8_gops, 0.01);
  EXPECT_LT(one->int8_gops, 20000);
}

TEST(Machine, AForcedIsaIsMeasured) {
  setenv("QUERN_FORCE_ISA", "scalar", 1);
  EXPECT_EQ(measure_machine(1)->isa, "scalar");
  setenv("QUERN_FORCE_ISA", "none", 1);
  EXPECT_FALSE(measure_machine(1).has_value());
  unsetenv("QUERN_FORCE_ISA");
}

}  // namespace
}  // namespace quern
