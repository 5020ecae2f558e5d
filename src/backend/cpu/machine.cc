#include "backend/cpu/machine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <vector>

#include "backend/cpu/kernels.h"
#include "core/buffer.h"
#include "core/system.h"
#include "core/thread_pool.h"

namespace quern {
namespace {

constexpr int kTries = 5;

/// What each thread reads: well beyond any share of a cache, and little beside the memory there is.
int64_t read_bytes(int threads) {
  constexpr int64_t kMost = int64_t{256} << 20, kAll = int64_t{4} << 30, kUnit = int64_t{1} << 20;
  const auto quarter = static_cast<int64_t>(std::min<uint64_t>(available_memory() / 4, kAll));
  return std::clamp(quarter / threads / kUnit * kUnit, kUnit, kMost);
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

/// Where results go, so that no work can be left out.
struct alignas(64) Sink {
  uint64_t value = 0;
};

double measure_read(const cpu::Kernels& kernels, ThreadPool& pool, const Buffer& buffer, int64_t bytes) {
  std::vector<Sink> sinks(static_cast<size_t>(pool.size()));
  double best = 0;
  for (int i = 0; i < 2 * kTries; ++i) {
    const double start = seconds();
    pool.for_parts(pool.size(), [&](int, int64_t part) {
      sinks[static_cast<size_t>(part)].value =
          kernels.read_all(buffer.data() + part * bytes, bytes, i % 2 == 0);
    });
    best = std::max(best, static_cast<double>(bytes * pool.size()) / (seconds() - start));
  }
  return best / 1e9;
}

/// As many rounds as take about 10 ms.
int64_t rounds_to_measure(const cpu::Kernels& kernels) {
  int64_t rounds = 1000;
  for (double took = 0; took < 0.01; rounds *= 2) {
    const double start = seconds();
    kernels.int8_rounds(rounds);
    took = seconds() - start;
  }
  return rounds;
}

double measure_int8(const cpu::Kernels& kernels, ThreadPool& pool, int64_t rounds) {
  const int64_t per_round = kernels.int8_rounds(1);
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const double start = seconds();
    pool.for_parts(pool.size(), [&](int, int64_t) { kernels.int8_rounds(rounds); });
    best = std::max(best, static_cast<double>(per_round * rounds * pool.size()) / (seconds() - start));
  }
  return best / 1e9;
}

}  // namespace

MachineLimits higher(const MachineLimits& a, const MachineLimits& b) {
  MachineLimits out = b;
  out.read_gb_s = std::max(a.read_gb_s, b.read_gb_s);
  out.int8_gops = std::max(a.int8_gops, b.int8_gops);
  return out;
}

struct Machine::Parts {
  const cpu::Kernels& kernels;
  ThreadPool pool;
  std::string cpu;
  Buffer buffer;
  int64_t bytes = 0;  // of it, for each thread
  int64_t rounds = 0;
  Parts(const cpu::Kernels& k, int threads) : kernels(k), pool(threads), cpu(cpu_name()) {}
};

Machine::Machine(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Machine::Machine(Machine&&) noexcept = default;
Machine::~Machine() = default;

Result<Machine> Machine::open(int threads) {
  QUERN_TRY(const cpu::Kernels* kernels, cpu::choose_kernels(""));
  auto parts = std::make_unique<Parts>(*kernels, threads > 0 ? threads : physical_cores());
  ThreadPool& pool = parts->pool;
  const int64_t bytes = parts->bytes = read_bytes(pool.size());
  auto buffer = Buffer::allocate(static_cast<size_t>(bytes * pool.size()));
  if (!buffer)
    return fail(buffer.error().code, "bench: no memory to measure reading with: {}", buffer.error().message);
  parts->buffer = *std::move(buffer);
  pool.for_parts(pool.size(), [&](int, int64_t part) {
    std::memset(parts->buffer.data() + part * bytes, 1, static_cast<size_t>(bytes));
  });
  parts->rounds = rounds_to_measure(*kernels);
  return Machine(std::move(parts));
}

MachineLimits Machine::measure() {
  return {.cpu = parts_->cpu,
          .isa = std::string(parts_->kernels.name),
          .threads = parts_->pool.size(),
          .read_gb_s = measure_read(parts_->kernels, parts_->pool, parts_->buffer, parts_->bytes),
          .int8_gops = measure_int8(parts_->kernels, parts_->pool, parts_->rounds)};
}

}  // namespace quern
