// One thread encodes rows that lie in the cache. items_per_second: weights; bytes_per_second: of the source.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>

#include "quant/encode.h"
#include "quant/encoder.h"
#include "quant/test_util.h"

namespace quern {
namespace {

constexpr int64_t kRows = 64, kCols = 1024;

void encode(benchmark::State& state, const QuantInfo* to, const Encoder* encoder, DType type, bool weighted) {
  setenv("QUERN_FORCE_ISA", std::string(encoder->name).c_str(), 1);
  const QuantInfo& from = *find_quant(type);
  const auto x = normal_values(kRows * kCols, 0.02f);
  std::vector<std::byte> stored(x.size() * from.bytes);
  from.encode(x.data(), stored.data(), x.size(), nullptr);
  const RawTensor source{"w", type, {kRows, kCols}, stored};
  auto importance = normal_values(kCols, 1, 2);
  for (float& w : importance) w = std::exp(w);
  if (!weighted) importance.clear();
  std::vector<std::byte> out(x.size() / to->block * to->bytes);
  for (auto _ : state) {
    if (!encode_rows(*to, source, 0, kRows, out.data(), importance)) state.SkipWithError("not encoded");
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations() * kRows * kCols);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(stored.size()));
  unsetenv("QUERN_FORCE_ISA");
}

void decode(benchmark::State& state, const QuantInfo* info) {
  const auto x = normal_values(kRows * kCols, 0.02f);
  std::vector<std::byte> stored(x.size() / info->block * info->bytes);
  info->encode(x.data(), stored.data(), x.size(), nullptr);
  std::vector<float> out(x.size());
  for (auto _ : state) {
    info->decode(stored.data(), out.data(), out.size());
    benchmark::DoNotOptimize(out.data());
  }
  state.SetItemsProcessed(state.iterations() * kRows * kCols);
}

[[maybe_unused]] const bool kRegistered = [] {
  const Encoder* best = available_encoders().front();
  for (const QuantInfo* info : all_quants()) {
    if (info->family != Family::affine) continue;
    const std::string name(info->name);
    for (const Encoder* encoder : available_encoders())
      benchmark::RegisterBenchmark((name + "/BF16/" + std::string(encoder->name)).c_str(), encode, info,
                                   encoder, DType::BF16, false);
    benchmark::RegisterBenchmark((name + "/F16").c_str(), encode, info, best, DType::F16, false);
    benchmark::RegisterBenchmark((name + "/F32").c_str(), encode, info, best, DType::F32, false);
    benchmark::RegisterBenchmark((name + "/BF16/importance").c_str(), encode, info, best, DType::BF16, true);
    benchmark::RegisterBenchmark((name + "/decode").c_str(), decode, info);
  }
  return true;
}();

}  // namespace
}  // namespace quern
