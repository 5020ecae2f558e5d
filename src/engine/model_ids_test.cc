#include "engine/model_ids.h"

#include <gtest/gtest.h>

#include <vector>

namespace quern {
namespace {

TEST(ModelIds, MeanWhatIsServed) {
  const std::vector<std::string> served = {"quern/guide", "a/b:Q8_0@c/d:x", "a/c:Q8_0", "a/c:Q4_0",
                                           "/m:1/f.gguf"};
  EXPECT_EQ(*find_model_id(served, ""), 0u);
  EXPECT_EQ(*find_model_id(served, "a/b"), 1u);
  EXPECT_EQ(*find_model_id(served, "a/b:Q8_0@c/d:x"), 1u);
  EXPECT_EQ(*find_model_id(served, "a/c:Q4_0"), 3u);
  EXPECT_EQ(*find_model_id(served, "/m:1/f.gguf"), 4u);
  for (const char* wrong : {"a/c", "a", "/m", "a/b:Q4_0", "A/B"}) {
    const auto found = find_model_id(served, wrong);
    ASSERT_FALSE(found) << wrong;
    EXPECT_EQ(found.error().code, ErrorCode::not_found);
    EXPECT_NE(found.error().message.find("a/c:Q4_0"), std::string::npos) << found.error().message;
  }
  EXPECT_FALSE(find_model_id({}, ""));
}

}  // namespace
}  // namespace quern
