// Tiles of a format multiplied one after another by all threads, beside plain reading of the same memory
// between them: how much of what the memory gives a kernel takes. With a few KiB instead of what fills memory
// it is what the kernel takes from a cache, which is what it could do at most.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "backend/cpu/kernel_inputs.h"
#include "core/buffer.h"
#include "core/system.h"
#include "core/thread_pool.h"

namespace quern::cpu {
namespace {

constexpr int64_t kCols = 2048, kDifferent = 16, kAtOnce = 8;
constexpr int kRounds = 15;

struct Asked {
  std::string_view type;
  int columns = 1;
  int threads = 0;
  int64_t kib = 256 << 10;  // per thread
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// Calls work(thread, first byte) on every thread until at least 50 ms have gone; bytes a second.
template <class Work>
double rate(ThreadPool& pool, int64_t bytes, const Work& work) {
  const double start = now();
  int64_t done = 0;
  do {
    pool.for_parts(pool.size(), [&](int thread, int64_t part) { work(thread, part * bytes); });
    done += bytes * pool.size();
  } while (now() - start < 0.05);
  return static_cast<double>(done) / (now() - start);
}

Result<> measure(const Asked& asked) {
  QUERN_TRY(const Kernels* kernels, choose_kernels(""));
  const QuantInfo* info = nullptr;
  for (const QuantInfo* q : all_quants())
    if (q->name == asked.type && q->family == Family::affine) info = q;
  if (info == nullptr)
    return fail(ErrorCode::invalid_argument, "type '{}': no format with tiles; one is Q4_K", asked.type);
  ThreadPool pool(asked.threads > 0 ? asked.threads : physical_cores());
  AffineInputs inputs(*kernels, *info, kDifferent, kCols, asked.columns);
  const int64_t tile = inputs.tile_bytes();
  const int64_t tiles = std::max<int64_t>(1, asked.kib * 1024 / tile);
  // Whole tiles for the kernel, and the whole KiB of them for plain reading.
  const int64_t bytes = tiles * tile, plain = std::max<int64_t>(bytes / 1024, 1) * 1024;
  QUERN_TRY(Buffer memory, Buffer::allocate(static_cast<size_t>(bytes * pool.size() + 1024)));
  auto* data = reinterpret_cast<uint8_t*>(memory.data());
  pool.for_parts(pool.size(), [&](int, int64_t part) {
    for (int64_t t = 0; t < tiles; ++t)
      std::memcpy(data + part * bytes + t * tile, inputs.from_tile(static_cast<size_t>(t % kDifferent)).tiles,
                  static_cast<size_t>(tile));
  });
  std::vector<std::vector<float>> sums(
      static_cast<size_t>(pool.size()),
      std::vector<float>(static_cast<size_t>(asked.columns * kTileRows * kAtOnce)));
  std::vector<double> read, used, ratio;
  for (int r = 0; r < kRounds; ++r) {
    uint64_t seen = 0;
    const auto reading = [&](bool ahead) {
      return rate(pool, bytes, [&](int thread, int64_t first) {
        const uint64_t value = kernels->read_all(memory.data() + first, plain, ahead);
        if (thread == 0) seen += value;
      });
    };
    const auto multiplying = [&](int thread, int64_t first) {
      AffineTiles job = inputs.from_tile(0);
      job.acc = sums[static_cast<size_t>(thread)].data();
      for (int64_t t = 0; t < tiles; t += job.count) {
        job.tiles = data + first + t * tile;
        job.count = std::min(kAtOnce, tiles - t);
        kernels->affine_tiles(job);
      }
    };
    read.push_back(std::max(reading(true), reading(false)));
    used.push_back(rate(pool, bytes, multiplying));
    read.back() = std::max(read.back(), std::max(reading(true), reading(false)));
    ratio.push_back(used.back() / read.back());
    if (seen == 1) fmt::print("\n");  // never; so that nothing can be left out
  }
  fmt::print(
      "{} {} x{}, {} threads, {} KiB each: {:.1f} GB/s of {:.1f} ({:.1f} to {:.1f}), {:.2f} ({:.2f} to "
      "{:.2f})\n",
      kernels->name, info->name, asked.columns, pool.size(), bytes / 1024, median(used) / 1e9,
      median(read) / 1e9, *std::ranges::min_element(read) / 1e9, *std::ranges::max_element(read) / 1e9,
      median(ratio), *std::ranges::min_element(ratio), *std::ranges::max_element(ratio));
  return {};
}

int run(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: quern_tiles TYPE [COLUMNS] [THREADS] [KIB of each thread]\n");
    return 2;
  }
  Asked asked{.type = argv[1]};
  if (argc > 2) asked.columns = std::clamp(std::atoi(argv[2]), 1, 512);
  if (argc > 3) asked.threads = std::clamp(std::atoi(argv[3]), 0, 1024);
  if (argc > 4) asked.kib = std::clamp<int64_t>(std::atoll(argv[4]), 1, 4 << 20);
  const auto done = measure(asked);
  if (!done) fmt::print(stderr, "error: {}\n", done.error().message);
  return done ? 0 : 1;
}

}  // namespace
}  // namespace quern::cpu

int main(int argc, char** argv) { return quern::cpu::run(argc, argv); }
