// What a cached result is known by.
#include "quantize/isq.h"

#include <gtest/gtest.h>

#include <set>

#include "formats/safetensors_for_test.h"

namespace quern {
namespace {

using testing::TestFolder;

TEST(ContentKey, CountsEverythingThatTheModelIsMadeOf) {
  const TestFolder folder("isq_key"), other("isq_tokenizer");
  IsqContent content{folder.path(), {}, {{"model.safetensors", "a"}}};
  std::set<std::string> keys;
  const auto is_new = [&] {
    const auto key = content_key(content);
    EXPECT_TRUE(key) << key.error().message;
    return key && keys.insert(*key).second;
  };
  EXPECT_TRUE(is_new());
  folder.write("README.md", "text");
  EXPECT_FALSE(is_new()) << "no part of the model";
  folder.write("config.json", "{}");
  EXPECT_TRUE(is_new());
  folder.write("tokenizer.json", "{}");
  EXPECT_TRUE(is_new());
  content.weights["model.safetensors"] = "b";
  EXPECT_TRUE(is_new());
  content.tokenizer_folder = other.path();
  EXPECT_TRUE(is_new());
  folder.write("tokenizer.json", "{ }");
  EXPECT_FALSE(is_new()) << "another one is taken";
  other.write("config.json", "{}");
  EXPECT_TRUE(is_new());
  other.write("config.json", R"({"eos_token_id": 2})");
  EXPECT_TRUE(is_new()) << "the tokenizer is read with it";
  other.write("generation_config.json", "{}");
  EXPECT_TRUE(is_new());
  std::filesystem::create_directory(other.path() / "additional_chat_templates");
  other.write("additional_chat_templates/tool_use.jinja", "{{ tools }}");
  EXPECT_TRUE(is_new());
  other.write("additional_chat_templates/tool_use.jinja", "{{ messages }}");
  EXPECT_TRUE(is_new());
  other.write("vocabulary.gguf", "one");
  EXPECT_TRUE(is_new());
  other.write("vocabulary.gguf", "two");
  EXPECT_TRUE(is_new());
}

}  // namespace
}  // namespace quern
