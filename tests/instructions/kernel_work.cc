// Runs each of the CPU's main kernels once, on one thread, with QUERN_FORCE_ISA's instructions: count.mjs
// counts what happens inside quern_measured, and finds each piece of work by its line of this program's
// output.
#include <fmt/format.h>

#include <cstdlib>
#include <functional>

#include "backend/cpu/kernel_inputs.h"

/// callgrind counts from entering this to leaving it.
extern "C" __attribute__((noinline)) void quern_measured(const std::function<void()>& work) {
  work();
  asm volatile("" ::: "memory");
}

namespace quern::cpu {
namespace {

using namespace quern::testing;

void measure(const std::string& name, const std::function<void()>& work) {
  fmt::print("{}\n", name);
  quern_measured(work);
}

/// 16 rows of 2048 weights by `columns` columns: from a tile, and from the rows as a file holds them.
void affine(const Kernels& kernels, const QuantInfo& info, int columns) {
  AffineInputs inputs(kernels, info, 1, 2048, columns);
  const AffineTiles tile = inputs.from_tile(0), rows = inputs.from_rows(0);
  measure(fmt::format("{} x {}", info.name, columns), [&] { kernels.affine_tiles(tile); });
  if (info.fields == nullptr) return;
  measure(fmt::format("{} from rows x {}", info.name, columns), [&] { kernels.affine_tiles(rows); });
}

void pack(const Kernels& kernels, const QuantInfo& info) {
  constexpr int64_t kCols = 2048;
  const TestMatrix m = random_matrix(info, {kTileRows, kCols}, 1);
  const PackedLayout layout = *packed_layout(info, kCols);
  std::vector<uint8_t> out(static_cast<size_t>(layout.tile_bytes()));
  measure(fmt::format("pack {}", info.name), [&] {
    kernels.pack_tile({&info, &layout, m.bytes.data(), m.bytes.size() / kTileRows, out.data()});
  });
}

void floats(const Kernels& kernels, const QuantInfo& info, int columns) {
  constexpr int64_t kCols = 2048;
  const TestMatrix m = random_matrix(info, {kTileRows, kCols}, 1);
  const TestTensor x = TestTensor::random(columns, kCols, 2);
  std::vector<float> acc(static_cast<size_t>(columns * kTileRows));
  measure(fmt::format("{} x {}", info.name, columns), [&] {
    kernels.float_tile(
        {info.dtype, m.bytes.data(), kTileRows, kCols, x.view.data, kCols, columns, acc.data()});
  });
}

void attention(const Kernels& kernels, KvType type, int rows) {
  AttentionInputs inputs(type, 512, rows);
  measure(fmt::format("attention {} x {}", type == KvType::f16 ? "f16" : "q8_0", rows),
          [&] { kernels.attention(inputs.task(), inputs.scratch()); });
}

void elementwise(const Kernels& kernels) {
  const auto x = random_floats(2048, 1), y = random_floats(2048, 2);
  std::vector<float> out(2048);
  std::vector<int8_t> codes(2048);
  std::vector<float> scale(64);
  std::vector<int32_t> sums(128);
  measure("rms_norm", [&] { kernels.rms_norm(out.data(), x.data(), y.data(), 2048, 1e-5f); });
  measure("silu_mul", [&] { kernels.silu_mul(out.data(), x.data(), y.data(), 2048); });
  measure("add", [&] { kernels.add(out.data(), x.data(), 2048); });
  measure("quantize_row",
          [&] { kernels.quantize_row(x.data(), 2048, codes.data(), 32, scale.data(), sums.data(), 1); });
}

int run() {
  const char* isa = std::getenv("QUERN_FORCE_ISA");
  const auto chosen = choose_kernels(isa == nullptr ? "" : isa);
  if (!chosen) {
    fmt::print(stderr, "error: {}\n", chosen.error().message);
    return 1;
  }
  const Kernels& kernels = **chosen;
  for (const QuantInfo* info : all_quants()) {
    if (info->family == Family::floating) {
      for (const int columns : {1, 8}) floats(kernels, *info, columns);
      continue;
    }
    if (info->family != Family::affine) continue;
    for (const int columns : {1, 8, 64}) affine(kernels, *info, columns);
    if (info->fields != nullptr) pack(kernels, *info);
  }
  for (const KvType type : {KvType::f16, KvType::q8_0})
    for (const int rows : {1, 8}) attention(kernels, type, rows);
  elementwise(kernels);
  // 100 · 64 products and their sums on AVX2: fewer, and the compiler has left some out of what bench calls
  // the most a machine does.
  measure("int8_rounds x 100", [&] { kernels.int8_rounds(100); });
  return 0;
}

}  // namespace
}  // namespace quern::cpu

int main() { return quern::cpu::run(); }
