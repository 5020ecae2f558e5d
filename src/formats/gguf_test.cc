// What a good file gives, from files made byte by byte and from files that other tools wrote.
#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/test_data.h"
#include "formats/gguf_builder_for_test.h"

namespace quern {
namespace {

TEST(Gguf, ReadsEveryType) {
  for (const uint32_t version : {2u, 3u}) {
    const ByteBuilder file = small_file(version);
    const auto opened = open_gguf(std::as_bytes(std::span(file.str())), "small");
    ASSERT_TRUE(opened) << opened.error().message;
    const WeightSource& source = **opened;
    const Metadata& m = source.metadata();
    EXPECT_EQ(source.name(), "small");
    EXPECT_EQ(*m.string("general.architecture"), "llama");
    EXPECT_EQ(m.uint("u8"), 200u);
    EXPECT_EQ(m.integer("i8"), -100);
    EXPECT_EQ(m.uint("u16"), 60000u);
    EXPECT_EQ(m.integer("i16"), -30000);
    EXPECT_EQ(m.uint("u32"), 4000000000u);
    EXPECT_EQ(m.integer("i32"), -2000000000);
    EXPECT_EQ(m.number("f32"), static_cast<double>(0.1f));
    EXPECT_EQ(m.boolean("bool"), true);
    EXPECT_EQ(m.uint("u64"), ~uint64_t{0});
    EXPECT_EQ(m.integer("i64"), -5);
    EXPECT_EQ(m.number("f64"), 0.1);
    EXPECT_EQ(*m.strings("strings"), (std::vector<std::string>{"a", ""}));
    EXPECT_EQ(m.numbers("floats"), (std::vector<double>{1.5, -2}));
    EXPECT_EQ(m.integers("bytes"), (std::vector<int64_t>{1, -1, 3}));
    const auto& bools = std::get<Metadata::Array>(*m.find("bools")).items;
    EXPECT_EQ(std::get<std::vector<bool>>(bools), (std::vector<bool>{false, true}));
    const auto& nested =
        std::get<std::vector<Metadata::Array>>(std::get<Metadata::Array>(*m.find("nested")).items);
    EXPECT_EQ(std::get<std::vector<uint64_t>>(nested[0].items), (std::vector<uint64_t>{7}));
    EXPECT_EQ(std::get<std::vector<std::string>>(nested[1].items), (std::vector<std::string>{"deep"}));

    ASSERT_EQ(source.tensors().size(), 2u);
    EXPECT_EQ(source.bytes(), 26u);
    const RawTensor* a = source.find("a.weight");
    ASSERT_NE(a, nullptr);
    EXPECT_EQ(a->dtype, DType::Q4_0);
    EXPECT_EQ(a->shape, (std::vector<int64_t>{32}));
    EXPECT_EQ(a->data.size(), 18u);
    EXPECT_EQ(a->data[0], std::byte{0x11});
    const RawTensor* b = source.find("b.weight");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->shape, (std::vector<int64_t>{2, 1}));  // outermost first
    float values[2];
    std::memcpy(values, b->data.data(), sizeof(values));
    EXPECT_EQ(values[1], 2.0f);
    EXPECT_EQ(source.find("c.weight"), nullptr);
  }
}

TEST(Gguf, HonoursTheAlignmentKey) {
  ByteBuilder b;
  b.header(2, 1).key("general.alignment", gguf::ValueType::u32).put(uint32_t{128});
  b.tensor("a", {3}, 0, 0).tensor("b", {1}, 0, 128).pad(128).put(1.0f).put(2.0f).put(3.0f).pad(128).put(4.0f);
  const auto opened = open_gguf(std::as_bytes(std::span(b.str())), "aligned");
  ASSERT_TRUE(opened) << opened.error().message;
  float value;
  std::memcpy(&value, (*opened)->find("b")->data.data(), 4);
  EXPECT_EQ(value, 4.0f);
}

TEST(Gguf, ReadsAFileWithNothingInIt) {
  ByteBuilder b;
  b.header(0, 0);
  const auto opened = open_gguf(std::as_bytes(std::span(b.str())), "nothing");
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_TRUE((*opened)->tensors().empty());
}

TEST(Gguf, MapsAFile) {
  const TemporaryFolder folder;
  const auto path = folder.write("model.gguf", small_file().str());
  std::unique_ptr<WeightSource> source;
  {
    auto opened = open_gguf(path);
    ASSERT_TRUE(opened) << opened.error().message;
    source = std::move(*opened);
  }
  EXPECT_EQ(source->name(), path.string());
  EXPECT_EQ(source->find("a.weight")->data[17], std::byte{0x11});
}

TEST(Gguf, ReadsPublicVocabularies) {
  const auto data = test_data();
  if (!data) GTEST_SKIP() << "no test data: set QUERN_TEST_DATA";
  const struct {
    const char* file;
    const char* model;
    size_t tokens;
  } cases[] = {
      {"gpt-2.gguf", "gpt2", 50257}, {"llama-spm.gguf", "llama", 32000}, {"phi-3.gguf", "llama", 32064}};
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
