// Reads the GGUF vocabularies that other tools wrote.
#include "formats/gguf.h"

#include <gtest/gtest.h>

#include "core/test_data.h"

namespace quern {
namespace {

TEST(Gguf, ReadsPublicVocabularies) {
  const auto data = test_data();
  if (!data) GTEST_SKIP() << "no test data: set QUERN_TEST_DATA";
  const struct {
    const char* file;
    const char* model;
    size_t tokens;
  } cases[] = {{"gpt-2.gguf", "gpt2", 50257}, {"llama-spm.gguf", "llama", 32000}, {"phi-3.gguf", "llama", 32064}};
  for (const auto& c : cases) {
    auto source = open_gguf(*data / "vocab" / c.file);
    ASSERT_TRUE(source) << source.error().message;
    const Metadata& metadata = (*source)->metadata();
    EXPECT_TRUE((*source)->tensors().empty());
    EXPECT_EQ((*source)->bytes(), 0u);
    ASSERT_NE(metadata.string("tokenizer.ggml.model"), nullptr);
    EXPECT_EQ(*metadata.string("tokenizer.ggml.model"), c.model);
    ASSERT_NE(metadata.strings("tokenizer.ggml.tokens"), nullptr);
    EXPECT_EQ(metadata.strings("tokenizer.ggml.tokens")->size(), c.tokens);
    EXPECT_EQ(metadata.integers("tokenizer.ggml.token_type")->size(), c.tokens);
  }
}

}  // namespace
}  // namespace quern
