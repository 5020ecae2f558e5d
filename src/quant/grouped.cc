#include "quant/grouped.h"

#include <cstring>

#include "core/half.h"

namespace quern {
namespace {

uint32_t word_at(const std::byte* words, int64_t index) {
  uint32_t word;  // little-endian, as every machine that we run on
  std::memcpy(&word, words + 4 * index, sizeof word);
  return word;
}

}  // namespace

int GroupedMatrix::code_at(int64_t n, int64_t k) const {
  const int64_t bit = k * bits, word = bit / 32 * rows + n;
  uint64_t window = word_at(codes, word);
  if (bit % 32 + bits > 32) window |= static_cast<uint64_t>(word_at(codes, word + rows)) << 32;
  return static_cast<int>(window >> (bit % 32) & ((uint64_t{1} << bits) - 1));
}

int GroupedMatrix::zero_at(int64_t g, int64_t n) const {
  if (zero) return *zero;
  const int64_t bit = n * bits, word = g * zero_words() + bit / 32;
  const uint32_t mask = (1u << bits) - 1;
  if (bits != 3) return static_cast<int>((word_at(zeros, word) + zero_step) >> (bit % 32) & mask);
  uint64_t window = word_at(zeros, word);
  if (bit % 32 + bits > 32) window |= static_cast<uint64_t>(word_at(zeros, word + 1)) << 32;
  return static_cast<int>(((window >> (bit % 32)) + zero_step) & mask);
}

float GroupedMatrix::scale_at(int64_t g, int64_t n) const {
  const int64_t index = g * rows + n;
  if (scale_type == DType::F32) {
    float wide;
    std::memcpy(&wide, scales + 4 * index, sizeof wide);
    return wide;
  }
  uint16_t half;
  std::memcpy(&half, scales + 2 * index, sizeof half);
  return scale_type == DType::BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

void decode_grouped(const GroupedMatrix& matrix, int64_t first, int64_t count, float* out) {
  std::vector<float> scale(static_cast<size_t>(matrix.groups));
  std::vector<int> zero(static_cast<size_t>(matrix.groups));
  for (int64_t n = first; n < first + count; ++n) {
    for (int64_t g = 0; g < matrix.groups; ++g) {
      scale[static_cast<size_t>(g)] = matrix.scale_at(g, n);
      zero[static_cast<size_t>(g)] = matrix.zero_at(g, n);
    }
    for (int64_t k = 0; k < matrix.cols; ++k) {
      const auto g = static_cast<size_t>(matrix.group(k));
      *out++ = scale[g] * static_cast<float>(matrix.code_at(n, k) - zero[g]);
    }
  }
}

}  // namespace quern
