#include "backend/cpu/check_grouped.h"

#include <cmath>
#include <random>

#include "backend/cpu/activations.h"

namespace quern::cpu {
namespace {

constexpr int64_t kLooks = 3;  // tiles, and rows of each: the first, the last and one between

/// Number `i` of at most kLooks out of `count`.
int64_t look(int64_t i, int64_t count) { return count <= kLooks ? i : i * (count - 1) / (kLooks - 1); }

/// Whole numbers, with 127 once in every unit of the weight's order, so that int8 holds them exactly.
std::vector<float> exact_input(const GroupedPlan& plan, int64_t cols) {
  std::mt19937 random(1);
  std::vector<float> x(static_cast<size_t>(cols));
  for (int64_t slot = 0; slot < plan.layout.cols; ++slot) {
    const int64_t k = plan.input(slot);
    if (k < 0) continue;
    const int value = slot % kUnit == 0 ? 127 : static_cast<int>(random() % 255) - 127;
    x[static_cast<size_t>(k)] = static_cast<float>(value);
  }
  return x;
}

struct Expected {
  double value = 0;
  double error = 0;  // the most that rounding to f32, unit by unit, can make of it
};

/// What the file says of a row, summed in the order of the tiles.
Expected expected_row(const GroupedMatrix& m, const GroupedPlan& plan, int64_t row,
                      const std::vector<float>& x) {
  Expected out;
  for (int64_t first = 0; first < plan.layout.cols; first += kUnit) {
    double part = 0, size = 0;
    for (int64_t slot = first; slot < first + kUnit; ++slot) {
      const int64_t k = plan.input(slot);
      if (k < 0) continue;
      const int64_t g = m.group(k);
      const double s = m.scale_at(g, row) * static_cast<double>(x[static_cast<size_t>(k)]);
      part += s * (m.code_at(row, k) - m.zero_at(g, row));
      size += std::abs(s) * std::max(m.code_at(row, k), m.zero_at(g, row));
    }
    out.value += part;
    out.error += 0x1p-23 * (std::abs(out.value) + 2 * size);
  }
  return out;
}

}  // namespace

Result<> check_grouped(const Kernels& kernels, const CpuWeight& weight) {
  const GroupedMatrix& matrix = *weight.raw.grouped;
  const GroupedPlan& plan = *weight.grouped_plan();
  std::vector<float> x = exact_input(plan, matrix.cols);
  ThreadPool alone(1);  // the backend's own may be at work for another model
  Activations activations;
  const ActivationNeed need = activation_need(plan.layout, kernels, plan.order.get());
  const int width = 1;
  activations.quantize(kernels, alone, {x.data(), 1, matrix.cols, matrix.cols}, nullptr, {&width, 1},
                       {&need, 1});
  std::vector<uint8_t> tile(static_cast<size_t>(plan.layout.tile_bytes()) + 64);
  const int64_t tiles = tile_count(matrix.rows);
  for (int64_t i = 0; i < std::min(kLooks, tiles); ++i) {
    const int64_t t = look(i, tiles);
    weight.pack_tile(kernels, 0, t, tile.data());
    alignas(64) float acc[kTileRows];
    kernels.affine_tiles({&plan.layout, tile.data(), nullptr, activations.panels(0).data(), 1, 1, acc});
    const int64_t rows = std::min<int64_t>(kTileRows, matrix.rows - t * kTileRows);
    for (int64_t j = 0; j < std::min(kLooks, rows); ++j) {
      const int64_t r = look(j, rows), row = t * kTileRows + r;
      const Expected expected = expected_row(matrix, plan, row, x);
      if (!std::isfinite(expected.value))
        return fail(ErrorCode::corrupt, "tensor {}: row {} has a scale that is not finite", weight.raw.name,
                    row);
      if (std::abs(acc[r] - expected.value) <= expected.error) continue;
      return fail(ErrorCode::internal,
                  "tensor {}: row {} is computed as {}, but the file's numbers give {}: the model cannot be "
                  "run here; please report this",
                  weight.raw.name, row, acc[r], expected.value);
    }
  }
  return {};
}

}  // namespace quern::cpu
