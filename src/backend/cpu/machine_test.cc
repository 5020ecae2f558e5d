#include "backend/cpu/machine.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace quern {
namespace {

TEST(Machine, LimitsAreMeasured) {
  auto machine = Machine::open(1);
  ASSERT_TRUE(machine.has_value());
  const MachineLimits first = machine->measure(), again = machine->measure();
  EXPECT_EQ(again.threads, first.threads);
  EXPECT_GT(again.int8_gops, first.int8_gops / 100);
  EXPECT_EQ(first.threads, 1);
  EXPECT_FALSE(first.cpu.empty());
  EXPECT_FALSE(first.isa.empty());
  EXPECT_GT(first.read_gb_s, 0.01);
  EXPECT_LT(first.read_gb_s, 2000);  // no machine reads faster: then nothing was read
  EXPECT_GT(first.int8_gops, 0.01);
  EXPECT_LT(first.int8_gops, 20000);
}

TEST(Machine, AForcedIsaIsMeasured) {
  setenv("QUERN_FORCE_ISA", "scalar", 1);
  EXPECT_EQ(Machine::open(1)->measure().isa, "scalar");
  setenv("QUERN_FORCE_ISA", "none", 1);
  EXPECT_FALSE(Machine::open(1).has_value());
  unsetenv("QUERN_FORCE_ISA");
}

}  // namespace
}  // namespace quern
