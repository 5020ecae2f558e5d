// What a bad file gives: one line that says what and where, and nothing worse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "formats/gguf_builder_for_test.h"
#include "quant/quant.h"

namespace quern {
namespace {

using gguf::ValueType;
using testing::HasSubstr;

std::string error_of(std::string_view bytes) {
  const auto opened = open_gguf(std::as_bytes(std::span(bytes)), "model.gguf");
  if (opened) return "it was read";
  const std::string& message = opened.error().message;
  EXPECT_TRUE(message.starts_with("model.gguf: ")) << message;
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << message;
  EXPECT_LT(message.size(), 400u);
  return message;
}

ByteBuilder one_tensor(std::vector<uint64_t> dims, uint32_t dtype, uint64_t offset, size_t data) {
  ByteBuilder b;
  b.header(1, 0).tensor("w", std::move(dims), dtype, offset).pad().zeros(data);
  return b;
}

TEST(GgufCorrupt, SaysWhatTheFileIsInstead) {
  EXPECT_THAT(error_of(""), HasSubstr("empty"));
  EXPECT_THAT(error_of("ABCDxxxxxxxxxxxxxxxxxxxxxxxxx"), HasSubstr("starts with 41 42 43 44"));
  EXPECT_THAT(error_of("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
              HasSubstr("Git LFS pointer"));
  EXPECT_THAT(error_of("<!DOCTYPE html><html>"), HasSubstr("web page"));
  EXPECT_THAT(error_of("<html>"), HasSubstr("web page"));
  EXPECT_THAT(error_of(std::string("PK\x03\x04zip", 7)), HasSubstr("PyTorch"));
  EXPECT_THAT(error_of("tjgg...."), HasSubstr("GGJT"));
  EXPECT_THAT(error_of("lmgg...."), HasSubstr("GGML"));
  EXPECT_THAT(error_of(std::string("\x40\0\0\0\0\0\0\0{\"a\":", 13)), HasSubstr("safetensors"));
  EXPECT_THAT(error_of("{\"error\":\"Invalid username\"}"), HasSubstr("not a GGUF file"));
}

TEST(GgufCorrupt, Versions) {
  ByteBuilder b;
  EXPECT_THAT(error_of(ByteBuilder().header(0, 0, 1).str()), HasSubstr("version 1"));
  EXPECT_THAT(error_of(ByteBuilder().header(0, 0, 4).str()), HasSubstr("version 4"));
  EXPECT_THAT(error_of(ByteBuilder().header(0, 0, 0).str()), HasSubstr("version 0"));
  EXPECT_THAT(error_of(ByteBuilder().header(0, 0, 0x03000000).str()),
              HasSubstr("big-endian GGUF file (version 3)"));
}

TEST(GgufCorrupt, CountsThatCannotBe) {
  EXPECT_THAT(error_of(ByteBuilder().header(0, ~uint64_t{0}).str()), HasSubstr("18446744073709551615 items"));
  EXPECT_THAT(error_of(ByteBuilder().header(~uint64_t{0}, 0).str()), HasSubstr("the tensor table"));
  EXPECT_THAT(error_of(ByteBuilder().header(0, 1).put(uint64_t{1} << 60).zeros(64).str()),
              HasSubstr("metadata key 1 of 1 at byte 24 claims 1152921504606846976 bytes; at most 65535"));
  EXPECT_THAT(error_of(ByteBuilder().header(0, 1).text("k").type(ValueType::string).put(~uint64_t{0}).str()),
              HasSubstr("claims 18446744073709551615 bytes"));
  for (const ValueType type : {ValueType::u8, ValueType::u64, ValueType::string, ValueType::array}) {
    ByteBuilder b;
    b.header(0, 1).text("k").type(ValueType::array).type(type).put(uint64_t{1} << 61).zeros(32);
    EXPECT_THAT(error_of(b.str()), HasSubstr("2305843009213693952 items"));
  }
}

TEST(GgufCorrupt, KeysAndValues) {
  EXPECT_THAT(error_of(ByteBuilder().header(0, 1).text("").type(ValueType::u64).put(uint64_t{1}).str()),
              HasSubstr("is empty"));
  EXPECT_THAT(error_of(ByteBuilder().header(0, 1).text("k").put(uint32_t{13}).put(uint64_t{1}).str()),
              HasSubstr("k: a value of unknown type 13"));
  EXPECT_THAT(error_of(ByteBuilder()
                           .header(0, 1)
                           .text("k")
                           .type(ValueType::array)
                           .put(uint32_t{99})
                           .put(uint64_t{0})
                           .str()),
              HasSubstr("k: an array of unknown type 99"));
  ByteBuilder twice;
  twice.header(0, 2).string_key("same", "a").string_key("same", "b");
  EXPECT_THAT(error_of(twice.str()), HasSubstr("metadata key same appears twice"));
  ByteBuilder control;
  control.header(0, 1).text("a\nb\x1b[31m").put(uint32_t{77}).put(uint64_t{1});
  EXPECT_THAT(error_of(control.str()), HasSubstr("a?b?[31m"));
  ByteBuilder deep;
  deep.header(0, 1).text("deep").type(ValueType::array);
  for (int i = 0; i < 100000; ++i) deep.type(ValueType::array).put(uint64_t{1});
  EXPECT_THAT(error_of(deep.str()), HasSubstr("nested more than 4 deep"));
}

TEST(GgufCorrupt, Alignment) {
  for (const uint32_t alignment : {0u, 1u, 4u, 48u, 1u << 30}) {
    ByteBuilder b;
    b.header(0, 1).key("general.alignment", ValueType::u32).put(alignment);
    EXPECT_THAT(error_of(b.str()), HasSubstr(fmt::format("general.alignment is {}", alignment)));
  }
  ByteBuilder b;
  b.header(0, 1).string_key("general.alignment", "32");
  EXPECT_THAT(error_of(b.str()), HasSubstr("general.alignment is not a positive integer"));
}

TEST(GgufCorrupt, Tensors) {
  EXPECT_THAT(error_of(one_tensor({}, 0, 0, 64).str()), HasSubstr("tensor w has 0 dimensions"));
  EXPECT_THAT(error_of(one_tensor({1, 1, 1, 1, 1}, 0, 0, 64).str()), HasSubstr("tensor w has 5 dimensions"));
  EXPECT_THAT(error_of(one_tensor({4, 0}, 0, 0, 64).str()), HasSubstr("a dimension of 0"));
  EXPECT_THAT(error_of(one_tensor({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0, 64).str()),
              HasSubstr("overflows"));
  EXPECT_THAT(error_of(one_tensor({uint64_t{1} << 62}, 0, 0, 64).str()), HasSubstr("overflows"));
  EXPECT_THAT(error_of(one_tensor({~uint64_t{0}}, 0, 0, 64).str()), HasSubstr("overflows"));
  EXPECT_THAT(error_of(one_tensor({uint64_t{1} << 60}, 0, 0, 64).str()), HasSubstr("are missing"));
  EXPECT_THAT(error_of(one_tensor({32}, 16, 0, 64).str()), HasSubstr("tensor w is stored as IQ2_XXS"));
  EXPECT_THAT(error_of(one_tensor({32}, 4, 0, 64).str()), HasSubstr("Q4_2"));
  EXPECT_THAT(error_of(one_tensor({32}, 1234, 0, 64).str()), HasSubstr("type 1234"));
  EXPECT_THAT(error_of(one_tensor({33}, 2, 0, 64).str()), HasSubstr("rows of 33"));
  EXPECT_THAT(error_of(one_tensor({4}, 0, 4, 64).str()), HasSubstr("offset 4"));
  EXPECT_THAT(error_of(one_tensor({4}, 0, ~uint64_t{31}, 64).str()), HasSubstr("beyond any file"));
  EXPECT_THAT(error_of(one_tensor({4}, 0, uint64_t{1} << 50, 64).str()), HasSubstr("missing"));
  EXPECT_THAT(error_of(one_tensor({16}, 0, 32, 64).str()), HasSubstr("so 32 are missing"));
  ByteBuilder unnamed;
  unnamed.header(1, 0).tensor("", {8}, 0, 0).pad().zeros(64);
  EXPECT_THAT(error_of(unnamed.str()), HasSubstr("tensor 0 has no name"));
  ByteBuilder twice;
  twice.header(2, 0).tensor("w", {8}, 0, 0).tensor("w", {8}, 0, 32).pad().zeros(64);
  EXPECT_THAT(error_of(twice.str()), HasSubstr("tensor w appears twice"));
  ByteBuilder overlap;
  overlap.header(2, 0).tensor("v", {16}, 0, 0).tensor("w", {8}, 0, 32).pad().zeros(64);
  EXPECT_THAT(error_of(overlap.str()), HasSubstr("tensors v and w overlap"));
}

// A sparse file may really have the length that its counts claim; what is parsed stays bounded all the same.
TEST(GgufCorrupt, HugeSparseFileCostsNothing) {
  const TemporaryFolder folder;
  ByteBuilder b;
  b.header(0, 1).text("k").type(ValueType::array).type(ValueType::u8).put(uint64_t{1} << 38);
  const auto path = folder.write("huge.gguf", b.str());
  std::error_code error;
  std::filesystem::resize_file(path, uint64_t{1} << 39, error);
  if (error) GTEST_SKIP() << "no sparse files here: " << error.message();
  const auto opened = open_gguf(path);
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().message, HasSubstr("makes the metadata larger than 1024 MiB"));
}

void touch(const WeightSource& source) {
  for (const RawTensor& tensor : source.tensors()) {
    float out[256];
    const QuantInfo* info = find_quant(tensor.dtype);
    ASSERT_NE(info, nullptr);
    ASSERT_GE(tensor.data.size(), info->bytes);
    info->decode(tensor.data.data(), out, info->block);
    info->decode(tensor.data.data() + tensor.data.size() - info->bytes, out, info->block);
  }
}

TEST(GgufCorrupt, EveryTruncationIsAnError) {
  const std::string good = small_file().str();
  for (size_t n = 0; n < good.size(); ++n) {
    // A copy of exactly n bytes, so that AddressSanitizer sees a read beyond them.
    const std::vector<char> bytes(good.begin(), good.begin() + static_cast<ptrdiff_t>(n));
    EXPECT_NE(error_of({bytes.data(), n}), "it was read") << n;
  }
  EXPECT_EQ(error_of(good), "it was read");
}

TEST(GgufCorrupt, EveryFlippedByteIsAnErrorOrAReadableFile) {
  std::string bytes = small_file().str();
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char original = bytes[i];
    for (const int flip : {0x01, 0x80, 0x7f, 0xff}) {
      bytes[i] = static_cast<char>(original ^ flip);
      const auto opened = open_gguf(std::as_bytes(std::span(bytes)), "mutant");
      if (opened) touch(**opened);
    }
    bytes[i] = original;
  }
}

}  // namespace
}  // namespace quern
