// Kernels of every ISA and the matmuls of a 1.1B Llama's layer. bytes_per_second counts the packed weights
// read, items_per_second int8 operations (2 per product).
#include <benchmark/benchmark.h>

#include "backend/cpu/kernel_inputs.h"
#include "backend/test_util.h"

namespace quern::cpu {
namespace {

using namespace quern::testing;

/// One thread, weights that stay in L2: what the kernel itself can do.
void affine_kernel(benchmark::State& state, const Kernels* kernels, const QuantInfo* info, int columns) {
  constexpr int64_t kCols = 2048, kTiles = 8;
  AffineInputs inputs(*kernels, *info, kTiles, kCols, columns);
  for (auto _ : state) {
    for (size_t t = 0; t < kTiles; ++t) kernels->affine_tiles(inputs.from_tile(t));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kTiles * inputs.tile_bytes());
  state.SetItemsProcessed(state.iterations() * 2 * kTiles * kTileRows * kCols * columns);
}

/// Through the backend with all threads, weights that come from memory: several copies, one after another;
/// packed, or (kept = false) packed on the way.
void matmul(benchmark::State& state, const QuantInfo* info, int64_t rows, int64_t cols, bool kept) {
  constexpr int kCopies = 12;
  const int64_t columns = state.range(0);
  auto backend = std::move(*make_cpu_backend({.keep_packed = kept}));
  const TestMatrix m = random_matrix(*info, {rows, cols}, 1);
  std::vector<std::vector<std::byte>> files(kCopies, m.bytes);
  std::vector<std::unique_ptr<Weight>> weights;
  for (int i = 0; i < kCopies; ++i) {
    RawTensor tensor = m.tensor;
    tensor.data = files[static_cast<size_t>(i)];
    weights.push_back(std::move(*backend->prepare(tensor)));
  }
  backend->settle();
  const TestTensor x = TestTensor::random(columns, cols, 2);
  TestTensor out(columns, rows);
  size_t next = 0;
  for (auto _ : state) backend->matmul(out.view, *weights[next++ % kCopies], x.view);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(m.bytes.size()));
  state.SetItemsProcessed(state.iterations() * 2 * rows * cols * columns);
}

/// One KV head with a group of 8, `rows` new tokens behind `state.range(0)`. items_per_second counts a
/// product and its sum as two operations.
void attention(benchmark::State& state, const Kernels* kernels, KvType type, int rows) {
  const int64_t tokens = state.range(0);
  AttentionInputs inputs(type, tokens - rows, rows);
  for (auto _ : state) kernels->attention(inputs.task(), inputs.scratch());
  state.SetBytesProcessed(state.iterations() * inputs.block_bytes() * tokens / AttentionInputs::kBlock);
  state.SetItemsProcessed(state.iterations() * 2 * 2 * rows * AttentionInputs::kHeads *
                          AttentionInputs::kDim * tokens);
}

void norm(benchmark::State& state, const Kernels* kernels) {
  const auto x = random_floats(2048, 1), gain = random_floats(2048, 2);
  std::vector<float> out(2048);
  for (auto _ : state) kernels->rms_norm(out.data(), x.data(), gain.data(), 2048, 1e-5f);
  state.SetBytesProcessed(state.iterations() * 2048 * 4);
}

void silu(benchmark::State& state, const Kernels* kernels) {
  const auto x = random_floats(5632, 1), y = random_floats(5632, 2);
  std::vector<float> out(5632);
  for (auto _ : state) kernels->silu_mul(out.data(), x.data(), y.data(), 5632);
  state.SetBytesProcessed(state.iterations() * 5632 * 4);
}

void quantize(benchmark::State& state, const Kernels* kernels) {
  const auto x = random_floats(2048, 1);
  std::vector<int8_t> codes(2048);
  std::vector<float> scale(64);
  std::vector<int32_t> sums(128);
  for (auto _ : state) kernels->quantize_row(x.data(), 2048, codes.data(), 32, scale.data(), sums.data(), 1);
  state.SetBytesProcessed(state.iterations() * 2048 * 4);
}

/// One thread: from a matrix that lies in memory (64 MiB of it) into a place that stays in L2.
void pack(benchmark::State& state, const Kernels* kernels, const QuantInfo* info) {
  constexpr int64_t kCols = 4096;
  const PackedLayout layout = *packed_layout(*info, kCols);
  const TestMatrix m = random_matrix(*info, {kTileRows, kCols}, 1);
  const size_t copies = std::max<size_t>(1, (64 << 20) / m.bytes.size());
  std::vector<std::byte> file(copies * m.bytes.size());
  for (size_t i = 0; i < copies; ++i)
    std::copy(m.bytes.begin(), m.bytes.end(), file.begin() + static_cast<int64_t>(i * m.bytes.size()));
  std::vector<uint8_t> out(static_cast<size_t>(layout.tile_bytes()));
  size_t next = 0;
  for (auto _ : state) {
    const std::byte* rows = file.data() + next++ % copies * m.bytes.size();
    const PackTile job{info, &layout, rows, m.bytes.size() / kTileRows, out.data()};
    if (kernels != nullptr && info->fields != nullptr) {
      kernels->pack_tile(job);
    } else {
      pack_tile_reference(job, kTileRows);
    }
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(m.bytes.size()));
  state.SetItemsProcessed(state.iterations() * kTileRows * kCols);
}

[[maybe_unused]] const bool registered = [] {
  for (const Kernels* k : available_kernels()) {
    const std::string isa(k->name);
    for (const QuantInfo* info : all_quants()) {
      if (info->family != Family::affine) continue;
      for (const int columns : {1, 4, 8, 256})
        benchmark::RegisterBenchmark(fmt::format("affine/{}/{}/{}", isa, info->name, columns).c_str(),
                                     affine_kernel, k, info, columns);
      if (info->fields != nullptr)
        benchmark::RegisterBenchmark(fmt::format("pack/{}/{}", isa, info->name).c_str(), pack, k, info);
    }
    for (const KvType type : {KvType::f16, KvType::q8_0})
      for (const int rows : {1, 8, 16})
        benchmark::RegisterBenchmark(
            fmt::format("attention/{}/{}/{}", isa, type == KvType::f16 ? "f16" : "q8_0", rows).c_str(),
            attention, k, type, rows)
            ->Arg(512)
            ->Arg(4096);
    benchmark::RegisterBenchmark(("rms_norm/" + isa).c_str(), norm, k);
    benchmark::RegisterBenchmark(("silu_mul/" + isa).c_str(), silu, k);
    benchmark::RegisterBenchmark(("quantize_row/" + isa).c_str(), quantize, k);
  }
  for (const QuantInfo* info : all_quants()) {
    if (info->family == Family::affine)
      benchmark::RegisterBenchmark(fmt::format("pack/reference/{}", info->name).c_str(), pack, nullptr, info);
    for (const bool kept : {true, false})
      benchmark::RegisterBenchmark(
          fmt::format("{}/{}/5632x2048", kept ? "matmul" : "matmul_from_file", info->name).c_str(), matmul,
          info, 5632, 2048, kept)
          ->Arg(1)
          ->Arg(8)
          ->Arg(256)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
  }
  return true;
}();

}  // namespace
}  // namespace quern::cpu
