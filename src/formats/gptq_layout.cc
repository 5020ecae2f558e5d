#include "formats/gptq_layout.h"

#include <cstring>

namespace quern::gptq {
namespace {

uint32_t load_word(const std::byte* words, size_t index) {
  uint32_t word;  // little-endian, as every machine that we run on
  std::memcpy(&word, words + 4 * index, sizeof word);
  return word;
}

/// Adds `delta` to each field of 3 bits on its own; 32 of them in three words.
void shift_fields_of_3(std::span<uint32_t> words, uint8_t delta) {
  for (size_t i = 0; i + 3 <= words.size(); i += 3) {
    uint8_t values[32];
    unpack_stream(3, reinterpret_cast<const std::byte*>(&words[i]), 1, values);
    for (uint8_t& v : values) v = static_cast<uint8_t>((v + delta) & 7);
    pack_stream(3, values, &words[i], 1);
  }
}

}  // namespace

void pack_stream(int bits, std::span<const uint8_t> values, uint32_t* words, size_t stride) {
  uint64_t waiting = 0;
  int count = 0;  // bits of it
  for (const uint8_t value : values) {
    waiting |= static_cast<uint64_t>(value) << count;
    count += bits;
    if (count < 32) continue;
    *words = static_cast<uint32_t>(waiting);
    words += stride;
    waiting >>= 32;
    count -= 32;
  }
}

void unpack_stream(int bits, const std::byte* words, size_t stride, std::span<uint8_t> values) {
  const uint32_t mask = (1u << bits) - 1;
  uint64_t waiting = 0;
  int count = 0;
  size_t next = 0;
  for (uint8_t& value : values) {
    if (count < bits) {
      waiting |= static_cast<uint64_t>(load_word(words, next)) << count;
      next += stride;
      count += 32;
    }
    value = static_cast<uint8_t>(waiting & mask);
    waiting >>= bits;
    count -= bits;
  }
}

void zeros_to_v1(int bits, std::span<uint32_t> words) {
  if (bits == 3) return shift_fields_of_3(words, 7);
  for (uint32_t& word : words) word -= ones_of_fields(bits);
}

void zeros_from_v1(int bits, std::span<uint32_t> words) {
  if (bits == 3) return shift_fields_of_3(words, 1);
  for (uint32_t& word : words) word += ones_of_fields(bits);
}

uint32_t symmetric_fill(int bits, ZeroFormat format, int64_t j) {
  uint8_t values[32];
  uint32_t words[8] = {};
  const int value = symmetric_zero(bits) - (format == ZeroFormat::v1 ? 1 : 0);
  std::memset(values, value, sizeof values);
  pack_stream(bits, values, words, 1);
  return words[bits == 3 ? j % 3 : 0];
}

std::optional<ZeroFormat> symmetric_format(int bits, std::span<const std::byte> words, int64_t row_words) {
  for (const ZeroFormat format : {ZeroFormat::v1, ZeroFormat::v2}) {
    uint32_t fill[3];
    for (int j = 0; j < 3; ++j) fill[j] = symmetric_fill(bits, format, j);
    const auto count = static_cast<int64_t>(words.size() / 4);
    int64_t same = 0;
    while (same < count && load_word(words.data(), static_cast<size_t>(same)) == fill[same % row_words % 3])
      ++same;
    if (same == count) return format;
  }
  return std::nullopt;
}

}  // namespace quern::gptq
