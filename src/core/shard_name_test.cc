#include "core/shard_name.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(ShardName, IsTakenApartAndPutTogether) {
  const auto shard = parse_shard_name("Q8_0/a-b-00002-of-00010.gguf", ".gguf");
  ASSERT_TRUE(shard);
  EXPECT_EQ(shard->prefix, "Q8_0/a-b");
  EXPECT_EQ(shard->number, 2U);
  EXPECT_EQ(shard->count, 10U);
  EXPECT_EQ(shard->extension, ".gguf");
  EXPECT_EQ(shard->of(2), "Q8_0/a-b-00002-of-00010.gguf");
  EXPECT_EQ(shard->of(10), "Q8_0/a-b-00010-of-00010.gguf");
}

TEST(ShardName, KeepsTheCaseOfTheExtension) {
  const auto shard = parse_shard_name("m-00001-of-00002.GGUF", ".gguf");
  ASSERT_TRUE(shard);
  EXPECT_EQ(shard->of(2), "m-00002-of-00002.GGUF");
}

TEST(ShardName, OfTheSmallestAndTheLargest) {
  EXPECT_TRUE(parse_shard_name("m-00001-of-00001.safetensors", ".safetensors"));
  EXPECT_EQ(parse_shard_name("m-99999-of-99999.gguf", ".gguf")->count, 99999U);
  EXPECT_EQ(parse_shard_name("-00001-of-00002.gguf", ".gguf")->prefix, "");
  // What looks like a number before it belongs to the prefix.
  EXPECT_EQ(parse_shard_name("m-00001-of-00003-00002-of-00002.gguf", ".gguf")->prefix, "m-00001-of-00003");
}

TEST(ShardName, OtherNamesAreNone) {
  for (const char* name :
       {"", "m.gguf", ".gguf", "00001-of-00002.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf",
        "m-00000-of-00000.gguf", "m-0001-of-0002.gguf", "m-00001-of-000002.gguf", "m_00001-of-00002.gguf",
        "m-00001-OF-00002.gguf", "m-00001-of-00002", "m-00001-of-00002.gguf.part", "m-00001-of-0000x.gguf",
        "m-+0001-of-00002.gguf", "m-00001-of-00002xgguf", "m-00001-of-00002.safetensors"})
    EXPECT_FALSE(parse_shard_name(name, ".gguf")) << name;
}

}  // namespace
}  // namespace quern
