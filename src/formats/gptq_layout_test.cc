// Words of GPTQ checkpoints against bits set one by one, and against words of known files.
#include "formats/gptq_layout.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace quern::gptq {
namespace {

constexpr int kBits[] = {2, 3, 4, 8};

std::vector<uint8_t> random_values(int bits, size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> values(count);
  for (uint8_t& v : values) v = static_cast<uint8_t>(random() & ((1u << bits) - 1));
  return values;
}

std::span<const std::byte> bytes_of(const std::vector<uint32_t>& words) {
  return std::as_bytes(std::span(words));
}

TEST(GptqLayout, AStreamIsLittleEndianInBits) {
  for (const int bits : kBits) {
    const auto values = random_values(bits, 96, 1);
    std::vector<uint32_t> words(static_cast<size_t>(*stream_words(96, bits)));
    pack_stream(bits, values, words.data(), 1);
    for (size_t i = 0; i < values.size() * bits; ++i) {
      const unsigned expected = values[i / bits] >> (i % bits) & 1;
      EXPECT_EQ(words[i / 32] >> (i % 32) & 1, expected) << bits << " bits, bit " << i;
    }
    std::vector<uint8_t> back(values.size());
    unpack_stream(bits, bytes_of(words).data(), 1, back);
    EXPECT_EQ(back, values);
  }
}

TEST(GptqLayout, ValuesOfThreeBitsCrossWords) {
  std::vector<uint8_t> values(32, 0);
  values[10] = 5;  // 101: two bits in word 0, the third in word 1
  values[21] = 6;  // 110: one bit in word 1, two in word 2
  uint32_t words[3];
  pack_stream(3, values, words, 1);
  EXPECT_EQ(words[0], 0x40000000u);
  EXPECT_EQ(words[1], 0x00000001u);
  EXPECT_EQ(words[2], 0x00000003u);
}

TEST(GptqLayout, ColumnsAreStreamsOfTheirOwn) {
  for (const int bits : kBits) {
    const size_t columns = 5, rows = static_cast<size_t>(*stream_words(64, bits));
    // One byte askew, as in a mapped file.
    std::vector<std::byte> file(rows * columns * 4 + 1);
    std::vector<uint32_t> words(rows * columns);
    for (size_t n = 0; n < columns; ++n)
      pack_stream(bits, random_values(bits, 64, static_cast<uint32_t>(n)), words.data() + n, columns);
    std::ranges::copy(bytes_of(words), file.begin() + 1);
    for (size_t n = 0; n < columns; ++n) {
      std::vector<uint8_t> back(64);
      unpack_stream(bits, file.data() + 1 + 4 * n, columns, back);
      EXPECT_EQ(back, random_values(bits, 64, static_cast<uint32_t>(n)));
    }
  }
}

TEST(GptqLayout, OnlyWholeWords) {
  EXPECT_EQ(stream_words(8, 4), 1);
  EXPECT_EQ(stream_words(12, 4), std::nullopt);
  EXPECT_EQ(stream_words(64, 3), 6);
  EXPECT_EQ(stream_words(16, 3), std::nullopt);
  EXPECT_EQ(stream_words(16, 2), 1);
  EXPECT_EQ(stream_words(6, 8), std::nullopt);
}

TEST(GptqLayout, ZerosOfV1AreOneLess) {
  for (const int bits : kBits) {
    std::vector<uint8_t> zeros = random_values(bits, 96, 2);
    for (uint8_t& z : zeros) z = std::max<uint8_t>(z, 1);
    std::vector<uint32_t> words(static_cast<size_t>(*stream_words(96, bits)));
    pack_stream(bits, zeros, words.data(), 1);
    const auto v2 = words;
    zeros_to_v1(bits, words);
    std::vector<uint8_t> stored(96);
    unpack_stream(bits, bytes_of(words).data(), 1, stored);
    for (size_t i = 0; i < 96; ++i) EXPECT_EQ(stored[i] + 1, zeros[i]) << bits;
    zeros_from_v1(bits, words);
    EXPECT_EQ(words, v2);
  }
}

TEST(GptqLayout, AZeroAtTheEndCarriesThroughItsWord) {
  // Zero points 0, 3, 0, 0, 5, 6, 7, 15 of 4 bits, and what GPTQModel stores: 0x…0030 − 0x11111111.
  std::vector<uint32_t> words = {0xf7650030u};
  zeros_to_v1(4, words);
  EXPECT_EQ(words[0], 0xf7650030u - 0x11111111u);
  zeros_from_v1(4, words);
  EXPECT_EQ(words[0], 0xf7650030u);
  // A field at its maximum adds one to the field above it; the last one's carry is lost.
  words = {0xf000000fu};
  zeros_from_v1(4, words);
  EXPECT_EQ(words[0], 0x01111120u);
  words = {0xff00ff00u};
  zeros_from_v1(8, words);
  EXPECT_EQ(words[0], 0x00020001u);
  words = {0xc0000003u};
  zeros_from_v1(2, words);
  EXPECT_EQ(words[0], 0x15555558u);
  // Three bits: each on its own.
  std::vector<uint8_t> zeros(32, 7);
  words.resize(3);
  pack_stream(3, zeros, words.data(), 1);
  zeros_from_v1(3, words);
  EXPECT_EQ(words, (std::vector<uint32_t>{0, 0, 0}));
}

TEST(GptqLayout, SymmetricZerosAreKnownByTheirWords) {
  EXPECT_EQ(symmetric_fill(4, ZeroFormat::v1, 0), 0x77777777u);
  EXPECT_EQ(symmetric_fill(4, ZeroFormat::v2, 5), 0x88888888u);
  EXPECT_EQ(symmetric_fill(8, ZeroFormat::v1, 0), 0x7f7f7f7fu);
  EXPECT_EQ(symmetric_fill(2, ZeroFormat::v2, 0), 0xaaaaaaaau);
  EXPECT_EQ(symmetric_fill(3, ZeroFormat::v2, 0), 0x24924924u);
  EXPECT_EQ(symmetric_fill(3, ZeroFormat::v2, 4), 0x49249249u);
  EXPECT_EQ(symmetric_fill(3, ZeroFormat::v1, 0), 0xdb6db6dbu);
  for (const int bits : kBits) {
    for (const ZeroFormat format : {ZeroFormat::v1, ZeroFormat::v2}) {
      const int64_t row_words = *stream_words(64, bits);
      std::vector<uint32_t> words;
      for (int64_t j = 0; j < 3 * row_words; ++j)
        words.push_back(symmetric_fill(bits, format, j % row_words));
      EXPECT_EQ(symmetric_format(bits, bytes_of(words), row_words), format);
      words.back() ^= 1u << 17;
      EXPECT_EQ(symmetric_format(bits, bytes_of(words), row_words), std::nullopt);
    }
  }
}

}  // namespace
}  // namespace quern::gptq
