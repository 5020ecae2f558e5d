#include "backend/cuda/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "backend/cuda/launch.h"
#include "core/half.h"

namespace quern::cuda {
namespace {

int log2_of(int64_t n) { return std::bit_width(static_cast<uint64_t>(n)) - 1; }

std::optional<PackPlan> affine_plan(const QuantInfo& info) {
  const AffineShape& shape = info.affine;
  PackPlan plan;
  plan.zero = shape.zero;
  plan.form = {.bits = shape.bits, .sub = 32, .super = shape.has_scales, .min = shape.has_min};
  if (shape.has_scales) {
    if (info.block != kSuper || shape.wide_d) return std::nullopt;
    plan.form.sub = shape.group;
  } else {
    if (shape.group % 32 != 0 || !std::has_single_bit(static_cast<unsigned>(shape.group)))
      return std::nullopt;
    plan.group_shift = log2_of(shape.group / 32);
  }
  if (matmul_kernels(plan.form) == nullptr) return std::nullopt;
  return plan;
}

/// The power of two that brings `largest` to [1, 2), when it is far from there; else 1. Where the values
/// stand in halves, none that matters beside the largest is lost then.
float factor_of(float largest) {
  if (!std::isfinite(largest) || largest == 0 || (largest >= 0x1p-7f && largest <= 0x1p10f)) return 1.0f;
  return std::ldexp(1.0f, std::clamp(std::ilogb(largest), -120, 120));
}

/// Puts halves or bytes of the rows of a tile into words.
class TileWriter {
 public:
  TileWriter(const PackPlan& plan, int tile, const PackOutput& out)
      : plan_(plan), form_(plan.form), tile_(tile), out_(out) {}

  void code(int row, int64_t k, uint32_t value) {
    const Spot spot = spot_of(form_.sub, row, static_cast<int>(k % kUnit));
    uint32_t* unit = out_.codes + (int64_t{tile_} * plan_.units + k / kUnit) * unit_words(form_.bits);
    const int low = low_plane(form_.bits), high = high_plane(form_.bits);
    put(unit, low, spot, value & ((1u << low) - 1));
    if (high > 0) put(unit + 32 * low, high, spot, value >> low);
  }
  /// Group `group` of a plain row: word 0 the scale, word 1 the minimum.
  void plain(int row, int64_t group, int word, float value) {
    const int groups = groups_of(plan_.units, plan_.group_shift);
    half(out_.heads, (int64_t{tile_} * groups + group) * 8, form_.head_words(), row, word, value);
  }
  void super(int row, int64_t block, int word, float value) {
    half(out_.supers, (int64_t{tile_} * supers_of(plan_.units) + block) * 8, form_.super_words(), row, word,
         value);
  }
  /// Scale, or minimum, of the group that begins at weight k.
  void byte(int row, int64_t k, bool min, uint8_t value) {
    const int groups = form_.groups();
    const int at = row / 8 * groups + static_cast<int>(k % kUnit) / form_.sub;
    uint32_t* head =
        out_.heads + ((int64_t{tile_} * plan_.units + k / kUnit) * 8 + row % 8) * form_.head_words();
    head[(min ? groups / 2 : 0) + at / 4] |= static_cast<uint32_t>(value) << (8 * (at % 4));
  }
  void factor(int row, float value) { out_.factor[tile_ * kTile + row] = value; }

 private:
  static void put(uint32_t* words, int plane, const Spot& spot, uint32_t value) {
    words[word_at(plane, spot.lane, pair_word(plane, spot.pair))] |=
        value << (pair_shift(plane, spot.pair) + 16 * spot.half);
  }
  static void half(uint32_t* words, int64_t at, int each, int row, int word, float value) {
    words[(at + row % 8) * each + word] |= static_cast<uint32_t>(f32_to_f16(value)) << (row / 8 * 16);
  }

  const PackPlan& plan_;
  const Form& form_;
  const int tile_;
  const PackOutput& out_;
};

void pack_halves(const PackPlan& plan, int row, std::span<const float> values, bool exact,
                 TileWriter& writer) {
  float largest = 0;
  for (const float x : values) largest = std::max(largest, std::fabs(x));
  const float factor = exact ? 1.0f : factor_of(largest);
  writer.factor(row, factor);
  for (int64_t k = 0; k < plan.cols; ++k)
    writer.code(row, k, f32_to_f16(values[static_cast<size_t>(k)] / factor));
}

/// The largest of what becomes halves of a block.
float largest_of(const AffineShape& shape, const AffineBlock& block, int groups) {
  float largest = 0;
  for (int g = 0; g < groups; ++g) {
    largest = std::max(largest, std::fabs(block.d * static_cast<float>(block.scale[g])));
    if (shape.has_min) largest = std::max(largest, std::fabs(block.dmin * static_cast<float>(block.min[g])));
  }
  return largest;
}

void pack_affine_row(const PackPlan& plan, const QuantInfo& info, const std::byte* data, int row,
                     std::vector<AffineBlock>& blocks, TileWriter& writer) {
  const AffineShape& shape = info.affine;
  const int groups = static_cast<int>(info.block) / shape.group;
  blocks.resize(static_cast<size_t>(plan.cols) / info.block);
  float largest = 0;
  for (size_t b = 0; b < blocks.size(); ++b) {
    info.unpack(data + b * info.bytes, blocks[b]);
    largest = std::max(largest, largest_of(shape, blocks[b], groups));
  }
  const float factor = factor_of(largest);
  writer.factor(row, factor);
  for (size_t b = 0; b < blocks.size(); ++b) {
    const AffineBlock& block = blocks[b];
    const auto first = static_cast<int64_t>(b * info.block);
    if (plan.form.super) {
      writer.super(row, static_cast<int64_t>(b), 0, block.d / factor);
      if (shape.has_min) writer.super(row, static_cast<int64_t>(b), 1, block.dmin / factor);
    }
    for (int g = 0; g < groups; ++g) {
      const int64_t k = first + int64_t{g} * shape.group;
      if (plan.form.super) {
        writer.byte(row, k, false, static_cast<uint8_t>(block.scale[g]));
        if (shape.has_min) writer.byte(row, k, true, block.min[g]);
      } else {
        writer.plain(row, k / shape.group, 0, block.d / factor);
        if (shape.has_min) writer.plain(row, k / shape.group, 1, block.dmin / factor);
      }
    }
    for (int64_t i = 0; i < info.block; ++i) writer.code(row, first + i, block.code[i]);
  }
}

constexpr int kRun = 32;  // columns of the smallest group

/// Inputs sorted by group, each group padded to whole runs; the group of every run.
std::vector<int32_t> sort_inputs(const GroupedMatrix& m, std::vector<int32_t>& run_group) {
  std::vector<int32_t> inputs(static_cast<size_t>(m.cols)), order;
  std::iota(inputs.begin(), inputs.end(), 0);
  std::ranges::stable_sort(inputs, {}, [&](int32_t k) { return m.group(k); });
  for (size_t i = 0; i < inputs.size();) {
    const int64_t group = m.group(inputs[i]);
    for (; i < inputs.size() && m.group(inputs[i]) == group; ++i) order.push_back(inputs[i]);
    while (order.size() % kRun != 0) order.push_back(-1);
    run_group.resize(order.size() / kRun, static_cast<int32_t>(group));
  }
  return order;
}

/// The largest power of two such that runs, taken so many at a time, are of one group each.
int shared_runs(const std::vector<int32_t>& run_group) {
  const auto alike = [&](size_t count) {
    for (size_t i = 0; i < run_group.size(); ++i)
      if (run_group[i] != run_group[i / count * count]) return false;
    return true;
  };
  int shift = 0;
  while ((size_t{1} << shift) < run_group.size() && alike(size_t{2} << shift)) ++shift;
  return shift;
}

void pack_grouped_row(const GroupedPlan& plan, const GroupedMatrix& m, int64_t n, int row,
                      TileWriter& writer) {
  const auto offset = [&](int64_t g) { return static_cast<float>(m.zero_at(g, n) - plan.zero); };
  float largest = 0;
  for (const int32_t g : plan.group) {
    const float scale = std::fabs(m.scale_at(g, n));
    largest = std::max({largest, scale, plan.form.min ? scale * std::fabs(offset(g)) : 0.0f});
  }
  const float factor = factor_of(largest);
  writer.factor(row, factor);
  for (size_t i = 0; i < plan.group.size(); ++i) {
    const int32_t g = plan.group[i];
    const float scale = m.scale_at(g, n);
    writer.plain(row, static_cast<int64_t>(i), 0, scale / factor);
    if (plan.form.min) writer.plain(row, static_cast<int64_t>(i), 1, scale * offset(g) / factor);
  }
  for (int64_t k = 0; k < plan.cols; ++k) {
    const int64_t input = plan.order.empty() ? k : plan.order[static_cast<size_t>(k)];
    if (input >= 0) writer.code(row, k, static_cast<uint32_t>(m.code_at(n, input)));
  }
}

PackPlan sized(PackPlan plan, int64_t rows, int64_t cols) {
  plan.rows = rows;
  plan.cols = cols;
  plan.tiles = tiles_of(rows);
  plan.units = units_of(cols);
  return plan;
}

}  // namespace

Packed PackPlan::shape() const {
  Packed packed;
  packed.rows = static_cast<int>(rows);
  packed.tiles = tiles;
  packed.units = units;
  packed.zero = zero;
  packed.group_shift = group_shift;
  return packed;
}

PackPlan pack_plan(const QuantInfo& info, int64_t rows, int64_t cols) {
  std::optional<PackPlan> affine;
  if (info.family == Family::affine) affine = affine_plan(info);
  return sized(affine.value_or(PackPlan{.form = {.bits = 16}}), rows, cols);
}

GroupedPlan pack_plan(const GroupedMatrix& m) {
  GroupedPlan plan;
  std::vector<int32_t> run_group;
  if (m.group_of.empty() && m.cols % kRun == 0 && m.group_size % kRun == 0) {
    for (int64_t k = 0; k < m.cols; k += kRun) run_group.push_back(static_cast<int32_t>(m.group(k)));
  } else {
    plan.order = sort_inputs(m, run_group);
  }
  static_cast<PackPlan&>(plan) = sized({.form = {.bits = m.bits, .min = !m.zero.has_value()},
                                        .zero = m.zero.value_or(1 << (m.bits - 1)),
                                        .group_shift = shared_runs(run_group)},
                                       m.rows, static_cast<int64_t>(run_group.size()) * kRun);
  if (!plan.order.empty()) plan.order.resize(static_cast<size_t>(plan.units) * kUnit, -1);
  const int groups = groups_of(plan.units, plan.group_shift);
  for (int g = 0; g < groups; ++g)
    plan.group.push_back(
        run_group[std::min(static_cast<size_t>(g) << plan.group_shift, run_group.size() - 1)]);
  return plan;
}

void pack_tile(const PackPlan& plan, const QuantInfo& info, const std::byte* data, int tile,
               const PackOutput& out) {
  const size_t row_bytes = static_cast<size_t>(plan.cols) / info.block * info.bytes;
  const int64_t first = int64_t{tile} * kTile;
  TileWriter writer(plan, tile, out);
  std::vector<float> values;
  std::vector<AffineBlock> blocks;
  for (int row = 0; row < kTile && first + row < plan.rows; ++row) {
    const std::byte* stored = data + static_cast<size_t>(first + row) * row_bytes;
    if (plan.form.bits < 16) {
      pack_affine_row(plan, info, stored, row, blocks, writer);
      continue;
    }
    values.resize(static_cast<size_t>(plan.cols));
    info.decode(stored, values.data(), values.size());
    pack_halves(plan, row, values, info.dtype == DType::F16, writer);
  }
}

void pack_tile(const GroupedPlan& plan, const GroupedMatrix& matrix, int tile, const PackOutput& out) {
  const int64_t first = int64_t{tile} * kTile;
  TileWriter writer(plan, tile, out);
  for (int row = 0; row < kTile && first + row < plan.rows; ++row)
    pack_grouped_row(plan, matrix, first + row, row, writer);
}

}  // namespace quern::cuda
