#include "backend/cuda/check_grouped.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace quern::cuda {
namespace {

constexpr int64_t kLooks = 7;

struct Expected {
  double value = 0;
  double size = 0;  // of what was added up: sums in f32 and minimums in halves are off by a part of it
};

Expected expected_row(const GroupedMatrix& m, int64_t row, const std::vector<float>& x) {
  Expected out;
  for (int64_t k = 0; k < m.cols; ++k) {
    const int64_t g = m.group(k);
    const double s = m.scale_at(g, row) * static_cast<double>(x[static_cast<size_t>(k)]);
    const int code = m.code_at(row, k), zero = m.zero_at(g, row);
    out.value += s * (code - zero);
    out.size += std::abs(s) * std::max(code, zero);
  }
  return out;
}

/// weight · x, by the kernels of a decode step.
Result<std::vector<float>> multiply(const CudaWeight& weight, const std::vector<float>& x,
                                    const std::shared_ptr<Device>& device) {
  const int padded = weight.packed().units * kUnit, rows = static_cast<int>(weight.rows);
  const auto room = [&](int64_t values, size_t size) {
    return Allocation::of(device, static_cast<size_t>(values) * size);
  };
  QUERN_TRY(const Allocation in, room(weight.cols, sizeof(float)));
  QUERN_TRY(const Allocation out, room(rows, sizeof(float)));
  QUERN_TRY(const Allocation halves, room(int64_t{padded} * kNarrowCols, sizeof(uint16_t)));
  QUERN_TRY(const Allocation scale, room(kNarrowCols, sizeof(float)));
  QUERN_TRY_VOID(device->load(in.as<void>(), x.data(), in.bytes()));
  ActivationArgs a{.rows = 1, .padded_rows = kNarrowCols, .padded = padded};
  a.in = {in.as<float>(), 1, static_cast<int>(weight.cols), weight.cols};
  a.order = weight.order();
  a.x = halves.as<uint16_t>();
  a.scale = scale.as<float>();
  MatmulArgs args = matmul_args(a);
  args.target[0].weight = weight.packed();
  args.target[0].out = out.as<float>();
  args.target[0].stride = rows;
  args.cols = weight.packed().tiles * kTile;
  const int tiles = weight.packed().tiles;
  const NarrowGrid grid = narrow_grid(weight.packed().units, tiles, device->multiprocessors());
  args.share = grid.share;
  QUERN_TRY_VOID(device->beside([&](Stream stream) {
    launch_activations(a, stream);
    weight.kernels()->narrow(args, {(tiles + grid.tiles - 1) / grid.tiles, 1, 1}, grid.threads, stream);
  }));
  std::vector<float> values(static_cast<size_t>(rows));
  QUERN_TRY_VOID(device->load_back(values.data(), out.as<void>(), out.bytes()));
  return values;
}

}  // namespace

Result<> check_grouped(const RawTensor& tensor, const CudaWeight& weight,
                       const std::shared_ptr<Device>& device) {
  const GroupedMatrix& m = *tensor.grouped;
  std::mt19937 random(1);
  std::vector<float> x(static_cast<size_t>(m.cols));
  for (float& value : x) value = static_cast<float>(static_cast<int>(random() % 255) - 127);
  QUERN_TRY(const std::vector<float> got, multiply(weight, x, device));
  for (int64_t i = 0; i < std::min(kLooks, m.rows); ++i) {
    const int64_t row = m.rows <= kLooks ? i : i * (m.rows - 1) / (kLooks - 1);
    const Expected expected = expected_row(m, row, x);
    if (!std::isfinite(expected.value))
      return fail(ErrorCode::corrupt, "tensor {}: row {} has a scale that is not finite", tensor.name, row);
    const double is = got[static_cast<size_t>(row)];
    if (std::abs(is - expected.value) <= 0x1p-11 * expected.size) continue;
    return fail(ErrorCode::internal,
                "tensor {}: row {} is computed as {}, but the file's numbers give {}: the model cannot be "
                "run on this "
                "device; please report this",
                tensor.name, row, is, expected.value);
  }
  return {};
}

}  // namespace quern::cuda
