// Runs each of the CPU's main kernels once, on one thread, with QUERN_FORCE_ISA's instructions: count.mjs
// counts what happens inside quern_measured, and finds each piece of work by its line of this program's
// output.
#include <fmt/format.h>

#include <cstdlib>
#include <functional>

#include "backend/cpu/activations.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/kernels.h"
#include "backend/test_util.h"

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
  constexpr int64_t kCols = 2048;
  ThreadPool pool(1);
  const TestMatrix m = random_matrix(info, {kTileRows, kCols}, 1);
  const PackedLayout layout = *packed_layout(info, kCols);
  std::vector<uint8_t> packed(static_cast<size_t>(layout.tile_bytes()) + 64);
  const PackTile rows{&info, &layout, m.bytes.data(), m.bytes.size() / kTileRows, packed.data()};
  pack_tile_reference(rows, kTileRows);
  const TestTensor x = TestTensor::random(columns, kCols, 2);
  std::vector<int> widths;
  append_widths(columns, kernels.max_panel, widths);
  Activations activations;
  const ActivationNeed need = activation_need(layout, kernels);
  activations.quantize(kernels, pool, x.view, nullptr, widths, std::span(&need, 1));
  const auto panels = activations.panels(0);
  std::vector<float> acc(static_cast<size_t>(columns * kTileRows));
  AffineTile job{&layout, packed.data(), nullptr, panels.data(), static_cast<int>(panels.size()),
                 columns, acc.data()};
  measure(fmt::format("{} x {}", info.name, columns), [&] { kernels.affine_tile(job); });
  if (info.fields == nullptr) return;
  job.tile = nullptr;
  job.rows = &rows;
  measure(fmt::format("{} from rows x {}", info.name, columns), [&] { kernels.affine_tile(job); });
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

/// One KV head of 64 dimensions with a group of 8 query heads, `rows` new tokens behind 512.
void attention(const Kernels& kernels, KvType type, int rows) {
  constexpr int64_t kBlock = 32, kDim = 64, kHeads = 8, kBefore = 512;
  const KvLayout layout(KvShape{1, kDim, kBlock, type});
  const int64_t count = (kBefore + rows) / kBlock + 1;
  std::vector<std::byte> cache(static_cast<size_t>(layout.head_bytes() * count));
  std::vector<int32_t> blocks;
  for (int32_t b = 0; b < count; ++b) blocks.push_back(b);
  const TestTensor q = TestTensor::random(rows, kHeads * kDim, 1);
  TestTensor out(rows, kHeads * kDim);
  std::vector<float> scratch(static_cast<size_t>(attention_scratch(layout)));
  const AttentionTask task{.layout = &layout,
                           .block_size = kBlock,
                           .head_dim = kDim,
                           .head = cache.data(),
                           .block_bytes = layout.head_bytes(),
                           .blocks = blocks.data(),
                           .q = q.view.data,
                           .out = out.view.data,
                           .q_stride = kHeads * kDim,
                           .out_stride = kHeads * kDim,
                           .rows = rows,
                           .heads = kHeads,
                           .start = kBefore,
                           .window = 0,
                           .scale = 0.125f,
                           .scratch = scratch.data()};
  measure(fmt::format("attention {} x {}", type == KvType::f16 ? "f16" : "q8_0", rows),
          [&] { kernels.attention(task); });
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
