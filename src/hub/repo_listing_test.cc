#include "hub/repo_listing.h"

#include <gtest/gtest.h>

namespace quern::hub {
namespace {

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

std::string listing_of(const std::string& names) {
  return fmt::format(R"({{"id":"a/b","sha":"{}","siblings":[{}],"x":{{"deep":[[[1]]]}}}})", kCommit, names);
}

TEST(RepoListing, ReadsCommitAndFiles) {
  const auto listing = parse_listing(
      listing_of(R"({"rfilename":"b.gguf"},{"rfilename":"a/c.gguf","size":3},{"rfilename":"b.gguf"})"));
  ASSERT_TRUE(listing.has_value()) << listing.error().message;
  EXPECT_EQ(listing->commit, kCommit);
  EXPECT_EQ(listing->files, (std::vector<std::string>{"a/c.gguf", "b.gguf"}));
  EXPECT_FALSE(listing->gated);
}

TEST(RepoListing, RefusesNamesThatLeaveTheirFolder) {
  for (const char* name :
       {"../x", "a/../../x", "/etc/passwd", "a//b", "", "a/", ".", "a/./b", "a\\\\b", "a\\u0000b", "a\\nb"})
    EXPECT_FALSE(parse_listing(listing_of(fmt::format(R"({{"rfilename":"{}"}})", name)))) << name;
  EXPECT_FALSE(parse_listing(listing_of(fmt::format(R"({{"rfilename":"{}"}})", std::string(4096, 'x')))));
  EXPECT_FALSE(parse_listing(listing_of(fmt::format(R"({{"rfilename":"{}"}})", std::string(300, 'x')))));
  EXPECT_TRUE(parse_listing(listing_of(R"({"rfilename":"...a/..b"})")));
}

TEST(RepoListing, RefusesWhatIsNoListing) {
  for (const char* text : {"", "null", "[]", "{", "<html>", R"({"sha":"main","siblings":[]})",
                           R"({"siblings":[]})", R"({"sha":12,"siblings":[]})",
                           R"({"sha":"../../../../../../../../etc/passwd/aaaaaaaaaaa","siblings":[]})"})
    EXPECT_FALSE(parse_listing(text)) << text;
  for (const char* siblings : {"1", R"("x")", R"({"name":"x"})", R"({"rfilename":1})", "[]", "null"})
    EXPECT_FALSE(parse_listing(listing_of(siblings))) << siblings;
}

TEST(RepoListing, RefusesTheHugeAndTheDeep) {
  std::string deep = fmt::format(R"({{"sha":"{}","siblings":[],"x":)", kCommit);
  deep += std::string(100'000, '[') + std::string(100'000, ']') + "}";
  const auto nested = parse_listing(deep);
  ASSERT_FALSE(nested.has_value());
  EXPECT_NE(nested.error().message.find("nested"), std::string::npos);
  const auto large = parse_listing(listing_of("") + std::string(kMaxListingBytes, ' '));
  ASSERT_FALSE(large.has_value());
  EXPECT_NE(large.error().message.find("larger"), std::string::npos);
  // Many values inside the limit of bytes: refused by their number, and in time.
  std::string many = "{}";
  while (many.size() < (size_t{8} << 20)) many += "," + many;
  EXPECT_FALSE(parse_listing(listing_of(many)));
}

TEST(RepoListing, Refs) {
  const auto refs = parse_refs(
      R"({"branches":[{"name":"main","ref":"refs/heads/main"},{"name":"x"}],"tags":[{"name":"v1"}],"converts":[]})");
  ASSERT_TRUE(refs.has_value());
  EXPECT_EQ(*refs, (std::vector<std::string>{"main", "x", "v1"}));
  EXPECT_FALSE(parse_refs("nonsense"));
}

TEST(RepoListing, ShardsAndMethod) {
  const auto shards = parse_shards(
      R"({"metadata":{},"weight_map":{"b":"m-2.safetensors","a":"m-1.safetensors","c":"m-2.safetensors"}})");
  ASSERT_TRUE(shards.has_value()) << shards.error().message;
  EXPECT_EQ(*shards, (std::vector<std::string>{"m-1.safetensors", "m-2.safetensors"}));
  EXPECT_FALSE(parse_shards(R"({"weight_map":{"a":"../../x"}})"));
  EXPECT_FALSE(parse_shards(R"({"weight_map":{"a":1}})"));
  EXPECT_FALSE(parse_shards(R"({"weight_map":{}})"));
  EXPECT_EQ(quantization_method(R"({"quantization_config":{"quant_method":"gptq","bits":4}})").value(),
            "gptq");
  EXPECT_EQ(quantization_method(R"({"architectures":["X"]})").value(), "");
}

}  // namespace
}  // namespace quern::hub
