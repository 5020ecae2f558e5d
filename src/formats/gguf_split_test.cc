// Models in several files.
#include <gtest/gtest.h>

#include <cstring>

#include "formats/gguf.h"
#include "formats/gguf_builder_for_test.h"

namespace quern {
namespace {

using gguf::ValueType;

struct Part {
  uint16_t number = 0;  // from 0
  uint16_t count = 3;
  int32_t tensors = 3;
  std::string tensor;
  std::string architecture;
};

std::string bytes_of(const Part& part) {
  ByteBuilder b;
  b.header(1, part.architecture.empty() ? 3 : 4);
  b.key("split.no", ValueType::u16).put(part.number);
  b.key("split.count", ValueType::u16).put(part.count);
  b.key("split.tensors.count", ValueType::i32).put(part.tensors);
  if (!part.architecture.empty()) b.string_key("general.architecture", part.architecture);
  b.tensor(part.tensor, {1}, 0, 0).pad().put(static_cast<float>(part.number));
  return b.str();
}

class Split : public testing::Test {
 protected:
  void SetUp() override {
    write(1, {.number = 0, .tensor = "a", .architecture = "llama"});
    write(2, {.number = 1, .tensor = "b"});
    write(3, {.number = 2, .tensor = "c"});
  }
  std::filesystem::path path(int part) const {
    return folder_.path() / fmt::format("m-{:05}-of-00003.gguf", part);
  }
  void write(int part, const Part& content) {
    folder_.write(path(part).filename().string(), bytes_of(content));
  }
  std::string error(int part) const {
    const auto opened = open_gguf(path(part));
    return opened ? "it was read" : opened.error().message;
  }
  TemporaryFolder folder_;
};

TEST_F(Split, AnyPartOpensAll) {
  for (int part = 1; part <= 3; ++part) {
    const auto opened = open_gguf(path(part));
    ASSERT_TRUE(opened) << opened.error().message;
    const WeightSource& source = **opened;
    EXPECT_EQ(source.name(), path(1).string());
    EXPECT_EQ(*source.metadata().string("general.architecture"), "llama");
    EXPECT_FALSE(source.metadata().contains("split.count"));
    ASSERT_EQ(source.tensors().size(), 3u);
    EXPECT_EQ(source.bytes(), 12u);
    float value;
    std::memcpy(&value, source.find("c")->data.data(), 4);
    EXPECT_EQ(value, 2.0f);
  }
}

TEST_F(Split, NamesMissingParts) {
  std::filesystem::remove(path(2));
  EXPECT_CONTAINS(error(1), "1 of 3 parts are missing: m-00002-of-00003.gguf");
  std::filesystem::remove(path(1));
  EXPECT_CONTAINS(error(3), "2 of 3 parts are missing: m-00001-of-00003.gguf, m-00002-of-00003.gguf");
  const auto many = open_gguf(folder_.path() / "x-00001-of-99999.gguf");
  ASSERT_FALSE(many);
  EXPECT_CONTAINS(many.error().message, "99999 of 99999 parts are missing");
  EXPECT_LT(many.error().message.size(), 300u);
}

TEST_F(Split, ChecksThatThePartsBelongTogether) {
  write(2, {.number = 2, .tensor = "b"});
  EXPECT_CONTAINS(error(1), "split.no is 2, but its name says 1");
  write(2, {.number = 1, .count = 4, .tensor = "b"});
  EXPECT_CONTAINS(error(1), "split.count is 4");
  write(2, {.number = 1, .tensors = 5, .tensor = "b"});
  EXPECT_CONTAINS(error(1), "another model");
  write(2, {.number = 1, .tensor = "b", .architecture = "qwen2"});
  EXPECT_CONTAINS(error(1), "another model");
  write(2, {.number = 1, .tensor = "a"});
  EXPECT_CONTAINS(error(1), "tensor a is in part 1, too");
  folder_.write(path(2).filename().string(), small_file().str());
  EXPECT_CONTAINS(error(1), "split.count is absent");
  folder_.write(path(2).filename().string(), bytes_of({.number = 1, .tensor = "b"}).substr(0, 100));
  EXPECT_CONTAINS(error(1), "m-00002-of-00003.gguf: ");
}

TEST_F(Split, ChecksTheNumberOfTensors) {
  for (int i = 1; i <= 3; ++i)
    write(i, {.number = static_cast<uint16_t>(i - 1),
              .tensors = 7,
              .tensor = std::string(1, static_cast<char>('a' + i))});
  EXPECT_CONTAINS(error(1), "hold 3 tensors, but split.tensors.count is 7");
}

TEST_F(Split, APartUnderAnotherNameSaysHowToNameIt) {
  const auto renamed = folder_.write("model.gguf", bytes_of({.number = 1, .tensor = "b"}));
  const auto opened = open_gguf(renamed);
  ASSERT_FALSE(opened);
  EXPECT_CONTAINS(opened.error().message, "part 2 of a model in 3 files");
}

TEST(SplitNames, OneOfOneIsAnOrdinaryFile) {
  const TemporaryFolder folder;
  const auto path = folder.write("m-00001-of-00001.gguf", small_file().str());
  EXPECT_TRUE(open_gguf(path));
  // Not the pattern: no part of anything.
  EXPECT_TRUE(open_gguf(folder.write("m-00004-of-00003.gguf", small_file().str())));
  EXPECT_TRUE(open_gguf(folder.write("m-0001-of-0002.gguf", small_file().str())));
}

}  // namespace
}  // namespace quern
