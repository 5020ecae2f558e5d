// What a bad file gives: one line that says what and where, and nothing worse.
#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "formats/gguf_builder_for_test.h"
#include "quant/quant.h"

namespace quern {
namespace {

using gguf::ValueType;

std::string error_of(std::string_view bytes) {
  const auto opened = open_gguf(std::as_bytes(std::span(bytes)), "model.gguf");
  if (opened) return "it was read";
  const std::string& message = opened.error().message;
  EXPECT_TRUE(message.starts_with("model.gguf: ")) << message;
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20) << message;
  EXPECT_LT(message.size(), 400u);
  return message;
}

ByteBuilder one_tensor(const std::vector<uint64_t>& dims, uint32_t dtype, uint64_t offset, size_t data) {
  ByteBuilder b;
  b.header(1, 0).tensor("w", dims, dtype, offset).pad().zeros(data);
  return b;
}

TEST(GgufCorrupt, SaysWhatTheFileIsInstead) {
  EXPECT_CONTAINS(error_of(""), "empty");
  EXPECT_CONTAINS(error_of("ABCDxxxxxxxxxxxxxxxxxxxxxxxxx"), "starts with 41 42 43 44");
  EXPECT_CONTAINS(error_of("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "Git LFS pointer");
  EXPECT_CONTAINS(error_of("<!DOCTYPE html><html>"), "web page");
  EXPECT_CONTAINS(error_of("<html>"), "web page");
  EXPECT_CONTAINS(error_of(std::string("PK\x03\x04zip", 7)), "PyTorch");
  EXPECT_CONTAINS(error_of("tjgg...."), "GGJT");
  EXPECT_CONTAINS(error_of("lmgg...."), "GGML");
  EXPECT_CONTAINS(error_of(std::string("\x40\0\0\0\0\0\0\0{\"a\":", 13)), "safetensors");
  EXPECT_CONTAINS(error_of("{\"error\":\"Invalid username\"}"), "not a GGUF file");
}

TEST(GgufCorrupt, Versions) {
  ByteBuilder b;
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, 0, 1).str()), "version 1");
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, 0, 4).str()), "version 4");
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, 0, 0).str()), "version 0");
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, 0, 0x03000000).str()), "big-endian GGUF file (version 3)");
}

TEST(GgufCorrupt, CountsThatCannotBe) {
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, ~uint64_t{0}).str()), "18446744073709551615 items");
  EXPECT_CONTAINS(error_of(ByteBuilder().header(~uint64_t{0}, 0).str()), "the tensor table");
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, 1).put(uint64_t{1} << 60).zeros(64).str()),
                  "metadata key 1 of 1 at byte 24 claims 1152921504606846976 bytes; at most 65535");
  EXPECT_CONTAINS(
      error_of(ByteBuilder().header(0, 1).text("k").type(ValueType::string).put(~uint64_t{0}).str()),
      "claims 18446744073709551615 bytes");
  for (const ValueType type : {ValueType::u8, ValueType::u64, ValueType::string, ValueType::array}) {
    ByteBuilder b;
    b.header(0, 1).text("k").type(ValueType::array).type(type).put(uint64_t{1} << 61).zeros(32);
    EXPECT_CONTAINS(error_of(b.str()), "2305843009213693952 items");
  }
}

TEST(GgufCorrupt, KeysAndValues) {
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, 1).text("").type(ValueType::u64).put(uint64_t{1}).str()),
                  "is empty");
  EXPECT_CONTAINS(error_of(ByteBuilder().header(0, 1).text("k").put(uint32_t{13}).put(uint64_t{1}).str()),
                  "k: a value of unknown type 13");
  EXPECT_CONTAINS(error_of(ByteBuilder()
                               .header(0, 1)
                               .text("k")
                               .type(ValueType::array)
                               .put(uint32_t{99})
                               .put(uint64_t{0})
                               .str()),
                  "k: an array of unknown type 99");
  ByteBuilder twice;
  twice.header(0, 2).string_key("same", "a").string_key("same", "b");
  EXPECT_CONTAINS(error_of(twice.str()), "metadata key same appears twice");
  ByteBuilder control;
  control.header(0, 1).text("a\nb\x1b[31m").put(uint32_t{77}).put(uint64_t{1});
  EXPECT_CONTAINS(error_of(control.str()), "a?b?[31m");
  ByteBuilder deep;
  deep.header(0, 1).text("deep").type(ValueType::array);
  for (int i = 0; i < 100000; ++i) deep.type(ValueType::array).put(uint64_t{1});
  EXPECT_CONTAINS(error_of(deep.str()), "nested more than 4 deep");
}

TEST(GgufCorrupt, Alignment) {
  for (const uint32_t alignment : {0u, 1u, 4u, 48u, 1u << 30}) {
    ByteBuilder b;
    b.header(0, 1).key("general.alignment", ValueType::u32).put(alignment);
    EXPECT_CONTAINS(error_of(b.str()), fmt::format("general.alignment is {}", alignment));
  }
  ByteBuilder b;
  b.header(0, 1).string_key("general.alignment", "32");
  EXPECT_CONTAINS(error_of(b.str()), "general.alignment is not a positive integer");
}

TEST(GgufCorrupt, Tensors) {
  EXPECT_CONTAINS(error_of(one_tensor({}, 0, 0, 64).str()), "tensor w has 0 dimensions");
  EXPECT_CONTAINS(error_of(one_tensor({1, 1, 1, 1, 1}, 0, 0, 64).str()), "tensor w has 5 dimensions");
  EXPECT_CONTAINS(error_of(one_tensor({4, 0}, 0, 0, 64).str()), "a dimension of 0");
  EXPECT_CONTAINS(error_of(one_tensor({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0, 64).str()), "overflows");
  EXPECT_CONTAINS(error_of(one_tensor({uint64_t{1} << 62}, 0, 0, 64).str()), "overflows");
  EXPECT_CONTAINS(error_of(one_tensor({~uint64_t{0}}, 0, 0, 64).str()), "overflows");
  EXPECT_CONTAINS(error_of(one_tensor({uint64_t{1} << 60}, 0, 0, 64).str()), "are missing");
  EXPECT_CONTAINS(error_of(one_tensor({32}, 16, 0, 64).str()), "tensor w is stored as IQ2_XXS");
  EXPECT_CONTAINS(error_of(one_tensor({32}, 4, 0, 64).str()), "Q4_2");
  EXPECT_CONTAINS(error_of(one_tensor({32}, 1234, 0, 64).str()), "type 1234");
  EXPECT_CONTAINS(error_of(one_tensor({33}, 2, 0, 64).str()), "rows of 33");
  EXPECT_CONTAINS(error_of(one_tensor({4}, 0, 4, 64).str()), "offset 4");
  EXPECT_CONTAINS(error_of(one_tensor({4}, 0, ~uint64_t{31}, 64).str()), "beyond any file");
  EXPECT_CONTAINS(error_of(one_tensor({4}, 0, uint64_t{1} << 50, 64).str()), "missing");
  EXPECT_CONTAINS(error_of(one_tensor({16}, 0, 32, 64).str()), "so 32 are missing");
  ByteBuilder unnamed;
  unnamed.header(1, 0).tensor("", {8}, 0, 0).pad().zeros(64);
  EXPECT_CONTAINS(error_of(unnamed.str()), "tensor 0 has no name");
  ByteBuilder twice;
  twice.header(2, 0).tensor("w", {8}, 0, 0).tensor("w", {8}, 0, 32).pad().zeros(64);
  EXPECT_CONTAINS(error_of(twice.str()), "tensor w appears twice");
  ByteBuilder overlap;
  overlap.header(2, 0).tensor("v", {16}, 0, 0).tensor("w", {8}, 0, 32).pad().zeros(64);
  EXPECT_CONTAINS(error_of(overlap.str()), "tensors v and w overlap");
}

// A sparse file may really have the length that its counts claim; what is parsed stays bounded all the same.
TEST(GgufCorrupt, HugeSparseFileCostsNothing) {
  const TemporaryFolder folder;
  ByteBuilder array, text;
  array.header(0, 1).text("k").type(ValueType::array).type(ValueType::u8).put(uint64_t{1} << 38);
  text.header(0, 1).text("k").type(ValueType::string).put(uint64_t{1} << 38);
  for (const ByteBuilder& b : {array, text}) {
    const auto path = folder.write("huge.gguf", b.str());
    std::error_code error;
    std::filesystem::resize_file(path, uint64_t{1} << 39, error);
    if (error) GTEST_SKIP() << "no sparse files here: " << error.message();
    const auto opened = open_gguf(path);
    ASSERT_FALSE(opened);
    EXPECT_CONTAINS(opened.error().message, "makes the metadata larger than 1024 MiB");
  }
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
