// Matrices whose codes, scales and zero points lie in tensors of their own, packed into words of 32 bits, as
// GPTQ checkpoints hold them (formats/gptq_layout.h): what a backend repacks, and the reference that it is
// held to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace quern {

/// W[n, k] = scale[g, n] · (code[k, n] − zero[g, n]),  g = group(k), for n < rows (outputs), k < cols
/// (inputs). A view: whoever made it checked that every byte it speaks of is there. Nothing need be aligned.
///
/// Codes and zero points are streams of `bits` bits, the lowest first, in little-endian words.
struct GroupedMatrix {
  std::string label;  // for people: "GPTQ 4-bit g128"
  int bits = 4;       // 2, 3, 4 or 8
  int64_t rows = 0;   // whole words of zero points
  int64_t cols = 0;   // whole words of codes
  int64_t groups = 1;
  int64_t group_size = 0;         // inputs of a group, where `group_of` is empty: groups · group_size = cols
  std::vector<int32_t> group_of;  // each input's group; empty: in order
  const std::byte* codes = nullptr;   // a stream along the inputs for each row: word j of row n is number
                                      // j · rows + n
  const std::byte* scales = nullptr;  // [groups][rows]
  DType scale_type = DType::F16;      // F16, BF16 or F32
  const std::byte* zeros = nullptr;   // a stream along the rows for each group, one after another
  /// Added to every word of zero points before its fields are read, modulo 2^32; of 3 bits, to every field,
  /// modulo 8. 0: they are as stored.
  uint32_t zero_step = 0;
  std::optional<int> zero;  // what all zero points are, where that is one number; then `zeros` is not read
  uint64_t side_bytes = 0;  // of scales, zero points and groups, as stored

  int64_t code_words() const { return cols * bits / 32; }
  int64_t zero_words() const { return rows * bits / 32; }
  int64_t group(int64_t k) const {
    return group_of.empty() ? k / group_size : int64_t{group_of[static_cast<size_t>(k)]};
  }

  int code_at(int64_t n, int64_t k) const;
  int zero_at(int64_t g, int64_t n) const;
  /// Exact.
  float scale_at(int64_t g, int64_t n) const;
};

/// Rows [first, first + count) as floats: the reference. Each product is rounded once.
void decode_grouped(const GroupedMatrix& matrix, int64_t first, int64_t count, float* out);

}  // namespace quern
