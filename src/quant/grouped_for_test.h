// Grouped matrices for tests, packed from the description of GPTQ's tensors bit by bit: nothing here looks at
// the code that reads them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "core/half.h"
#include "quant/grouped.h"

namespace quern::testing {

enum class GroupOrder {
  none,      // no g_idx
  in_order,  // k / group_size
  shuffled,  // act-order: every group has group_size inputs, anywhere
  negative,  // the same, half of them counted from the end
  uneven,    // any input in any group
};

struct GroupedSpec {
  int bits = 4;
  int64_t group_size = 32;  // −1: all inputs
  bool symmetric = true;
  GroupOrder order = GroupOrder::none;
  bool v2 = false;  // zero points as they are, not less one
  DType scale_type = DType::F16;
};

/// The tensors of a module, and what they say.
struct GroupedParts {
  GroupedSpec spec;
  int64_t rows = 0, cols = 0, groups = 0;
  std::vector<uint32_t> qweight;  // [cols · bits / 32][rows]
  std::vector<uint32_t> qzeros;   // [groups][rows · bits / 32]
  std::vector<std::byte> scales;  // [groups][rows]
  std::vector<int32_t> g_idx;     // [cols], or empty
  std::vector<float> exact;       // [rows][cols]

  /// As whoever reads a checkpoint would describe it; a view of this.
  GroupedMatrix matrix() const {
    GroupedMatrix m;
    m.label = "test";
    m.bits = spec.bits;
    m.rows = rows;
    m.cols = cols;
    m.groups = groups;
    m.group_size = cols / groups;
    if (spec.order != GroupOrder::none && spec.order != GroupOrder::in_order)
      for (const int32_t g : g_idx) m.group_of.push_back(g < 0 ? g + static_cast<int32_t>(groups) : g);
    m.codes = reinterpret_cast<const std::byte*>(qweight.data());
    m.scales = scales.data();
    m.scale_type = spec.scale_type;
    m.zeros = reinterpret_cast<const std::byte*>(qzeros.data());
    if (!spec.v2)
      m.zero_step = spec.bits == 2   ? 0x55555555
                    : spec.bits == 3 ? 1
                    : spec.bits == 4 ? 0x11111111
                                     : 0x01010101;
    if (spec.symmetric) m.zero = 1 << (spec.bits - 1);
    m.side_bytes = 4 * qzeros.size() + scales.size() + 4 * g_idx.size();
    return m;
  }
};

namespace detail {

inline void put_bits(std::vector<uint32_t>& words, size_t first_word, size_t stride, size_t index, int bits,
                     unsigned value) {
  for (int b = 0; b < bits; ++b) {
    const size_t bit = index * static_cast<size_t>(bits) + static_cast<size_t>(b);
    if ((value >> b & 1) != 0) words[first_word + bit / 32 * stride] |= 1u << (bit % 32);
  }
}

inline float put_scale(GroupedParts& p, size_t index, float scale) {
  if (p.spec.scale_type == DType::F32) {
    std::memcpy(p.scales.data() + 4 * index, &scale, 4);
    return scale;
  }
  const bool bf16 = p.spec.scale_type == DType::BF16;
  const uint16_t half = bf16 ? f32_to_bf16(scale) : f32_to_f16(scale);
  std::memcpy(p.scales.data() + 2 * index, &half, 2);
  return bf16 ? bf16_to_f32(half) : f16_to_f32(half);
}

inline std::vector<int32_t> make_order(const GroupedSpec& spec, int64_t cols, int64_t groups,
                                       std::mt19937& random) {
  std::vector<int32_t> order(static_cast<size_t>(cols));
  for (size_t k = 0; k < order.size(); ++k) {
    order[k] = static_cast<int32_t>(static_cast<int64_t>(k) / (cols / groups));
    if (spec.order == GroupOrder::uneven)
      order[k] = static_cast<int32_t>(random() % static_cast<uint32_t>(groups));
  }
  if (spec.order == GroupOrder::shuffled || spec.order == GroupOrder::negative)
    std::shuffle(order.begin(), order.end(), random);
  return order;
}

/// Packs codes[n · cols + k], zeros[g · rows + n] and scales[g · rows + n]; `order` says each input's group.
inline void fill(GroupedParts& p, const std::vector<int32_t>& order, const std::vector<unsigned>& codes,
                 const std::vector<unsigned>& zeros, const std::vector<float>& scales) {
  const auto rows = static_cast<size_t>(p.rows), cols = static_cast<size_t>(p.cols),
             groups = static_cast<size_t>(p.groups), bits = static_cast<size_t>(p.spec.bits);
  p.qweight.assign(cols * bits / 32 * rows, 0);
  p.qzeros.assign(groups * (rows * bits / 32), 0);
  p.scales.assign(groups * rows * (p.spec.scale_type == DType::F32 ? 4 : 2), std::byte{0});
  p.exact.assign(rows * cols, 0);
  std::vector<float> stored(groups * rows);
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = put_scale(p, i, scales[i]);
  for (size_t n = 0; n < rows; ++n) {
    for (size_t k = 0; k < cols; ++k) {
      const unsigned code = codes[n * cols + k];
      put_bits(p.qweight, n, rows, k, p.spec.bits, code);
      const size_t i = static_cast<size_t>(order[k]) * rows + n;
      p.exact[n * cols + k] = stored[i] * (static_cast<float>(code) - static_cast<float>(zeros[i]));
    }
  }
  const size_t row_words = rows * bits / 32;
  for (size_t g = 0; g < groups; ++g) {
    for (size_t n = 0; n < rows; ++n) {
      // Three bits: each less one on its own, modulo 8. Else whole words less one in every field.
      const unsigned zero = zeros[g * rows + n];
      put_bits(p.qzeros, g * row_words, 1, n, p.spec.bits, bits == 3 && !p.spec.v2 ? (zero + 7) % 8 : zero);
    }
  }
  if (bits != 3 && !p.spec.v2) {
    uint32_t ones = 0;
    for (size_t b = 0; b < 32; b += bits) ones |= 1u << b;
    for (uint32_t& word : p.qzeros) word -= ones;
  }
  if (p.spec.order == GroupOrder::none) return;
  p.g_idx = order;
  if (p.spec.order == GroupOrder::negative)
    for (size_t k = 0; k < cols; k += 2) p.g_idx[k] -= static_cast<int32_t>(groups);
}

inline GroupedParts start(const GroupedSpec& spec, int64_t rows, int64_t cols) {
  GroupedParts p;
  p.spec = spec;
  p.rows = rows;
  p.cols = cols;
  p.groups = spec.group_size < 0 ? 1 : cols / spec.group_size;
  return p;
}

}  // namespace detail

/// Codes, zero points and scales all random, their ends included.
inline GroupedParts random_grouped(const GroupedSpec& spec, int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  GroupedParts p = detail::start(spec, rows, cols);
  const unsigned mask = (1u << spec.bits) - 1;
  std::vector<unsigned> codes(static_cast<size_t>(rows * cols)), zeros(static_cast<size_t>(p.groups * rows));
  std::vector<float> scales(zeros.size());
  for (unsigned& c : codes) c = random() & mask;
  for (unsigned& z : zeros) z = spec.symmetric ? 1u << (spec.bits - 1) : random() & mask;
  for (float& s : scales) s = (0.5f + static_cast<float>(random() % 1024) / 1024) / static_cast<float>(mask);
  detail::fill(p, detail::make_order(spec, cols, p.groups, random), codes, zeros, scales);
  return p;
}

/// values[rows][cols] rounded to the nearest codes, group by group.
inline GroupedParts grouped_of(const GroupedSpec& spec, int64_t rows, int64_t cols,
                               std::span<const float> values, uint32_t seed) {
  std::mt19937 random(seed);
  GroupedParts p = detail::start(spec, rows, cols);
  const std::vector<int32_t> order = detail::make_order(spec, cols, p.groups, random);
  const auto top = static_cast<float>((1 << spec.bits) - 1);
  std::vector<unsigned> codes(values.size()), zeros(static_cast<size_t>(p.groups * rows));
  std::vector<float> scales(zeros.size());
  for (int64_t n = 0; n < rows; ++n) {
    const float* row = values.data() + n * cols;
    std::vector<float> low(static_cast<size_t>(p.groups), 0), high(static_cast<size_t>(p.groups), 0);
    for (int64_t k = 0; k < cols; ++k) {
      const auto g = static_cast<size_t>(order[static_cast<size_t>(k)]);
      low[g] = std::min(low[g], row[k]);
      high[g] = std::max(high[g], row[k]);
    }
    for (int64_t g = 0; g < p.groups; ++g) {
      const auto i = static_cast<size_t>(g * rows + n), j = static_cast<size_t>(g);
      if (spec.symmetric) high[j] = std::max(high[j], -low[j]), low[j] = -high[j];
      scales[i] = f16_to_f32(f32_to_f16(std::max((high[j] - low[j]) / top, 1e-4f)));
      zeros[i] = spec.symmetric
                     ? 1u << (spec.bits - 1)
                     : static_cast<unsigned>(std::clamp(std::round(-low[j] / scales[i]), 0.0f, top));
    }
    for (int64_t k = 0; k < cols; ++k) {
      const auto i = static_cast<size_t>(order[static_cast<size_t>(k)] * rows + n);
      codes[static_cast<size_t>(n * cols + k)] = static_cast<unsigned>(
          std::clamp(std::round(row[k] / scales[i]) + static_cast<float>(zeros[i]), 0.0f, top));
    }
  }
  detail::fill(p, order, codes, zeros, scales);
  return p;
}

}  // namespace quern::testing
