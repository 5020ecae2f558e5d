#include "quant/quant.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "core/check.h"
#include "quant/grouped.h"

namespace quern {

#define QUERN_QUANT(folder) extern const QuantInfo quant_info_##folder;
#include "quant/formats.inc"
#undef QUERN_QUANT

namespace {

// ggml's type numbers; empty where a number was withdrawn.
constexpr std::string_view kNames[] = {
    "F32",      "F16",      "Q4_0",    "Q4_1",  "Q4_2",       "Q4_3",       "Q5_0",       "Q5_1",
    "Q8_0",     "Q8_1",     "Q2_K",    "Q3_K",  "Q4_K",       "Q5_K",       "Q6_K",       "Q8_K",
    "IQ2_XXS",  "IQ2_XS",   "IQ3_XXS", "IQ1_S", "IQ4_NL",     "IQ3_S",      "IQ2_S",      "IQ4_XS",
    "I8",       "I16",      "I32",     "I64",   "F64",        "IQ1_M",      "BF16",       "Q4_0_4_4",
    "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",
};

const std::vector<const QuantInfo*>& table() {
  static const std::vector<const QuantInfo*> sorted = [] {
    std::vector<const QuantInfo*> all = {
#define QUERN_QUANT(folder) &quant_info_##folder,
#include "quant/formats.inc"
#undef QUERN_QUANT
    };
    std::sort(all.begin(), all.end(), [](const auto* a, const auto* b) { return a->dtype < b->dtype; });
    return all;
  }();
  return sorted;
}

/// Upper case, without underscores.
std::string plain(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c != '_') out += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  }
  return out;
}

}  // namespace

const QuantInfo* find_quant(DType dtype) {
  for (const QuantInfo* info : table()) {
    if (info->dtype == dtype) return info;
  }
  return nullptr;
}

const QuantInfo* find_quant(std::string_view name) {
  const std::string wanted = plain(name);
  for (const QuantInfo* info : table()) {
    if (plain(info->name) == wanted) return info;
  }
  return nullptr;
}

std::span<const QuantInfo* const> all_quants() { return table(); }

std::string dtype_name(DType dtype) {
  const auto number = static_cast<uint32_t>(dtype);
  if (number < std::size(kNames)) return std::string(kNames[number]);
  if (dtype == DType::Grouped) return "GPTQ";
  std::string name = "type ";  // not "type " + …: GCC 12 warns wrongly about that
  return name += std::to_string(number);
}

std::optional<uint64_t> tensor_bytes(DType dtype, uint64_t rows, uint64_t cols) {
  const QuantInfo* info = find_quant(dtype);
  if (info == nullptr || cols % info->block != 0) return std::nullopt;
  uint64_t blocks;
  uint64_t bytes;
  if (__builtin_mul_overflow(rows, cols / info->block, &blocks)) return std::nullopt;
  if (__builtin_mul_overflow(blocks, uint64_t{info->bytes}, &bytes)) return std::nullopt;
  return bytes;
}

uint64_t stored_bytes(const RawTensor& tensor) {
  return tensor.data.size() + (tensor.grouped != nullptr ? tensor.grouped->side_bytes : 0);
}

std::string type_name(const RawTensor& tensor) {
  return tensor.grouped != nullptr ? tensor.grouped->label : dtype_name(tensor.dtype);
}

void decode_rows(const RawTensor& tensor, int64_t first, int64_t count, float* out) {
  if (tensor.grouped != nullptr) {
    QUERN_CHECK(first >= 0 && count >= 0 && first <= tensor.rows() - count);
    return decode_grouped(*tensor.grouped, first, count, out);
  }
  const QuantInfo* info = find_quant(tensor.dtype);
  QUERN_CHECK(info != nullptr && first >= 0 && count >= 0 && first <= tensor.rows() - count);
  const auto cols = static_cast<uint64_t>(tensor.cols());
  const auto begin = tensor_bytes(tensor.dtype, static_cast<uint64_t>(first), cols);
  const auto end = tensor_bytes(tensor.dtype, static_cast<uint64_t>(first + count), cols);
  QUERN_CHECK(begin && end && *end <= tensor.data.size());
  info->decode(tensor.data.data() + *begin, out, static_cast<size_t>(static_cast<uint64_t>(count) * cols));
}

}  // namespace quern
