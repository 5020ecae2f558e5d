#include "backend/cpu/machine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <vector>

#include "backend/cpu/kernels.h"
#include "core/buffer.h"
#include "core/thread_pool.h"

namespace quern {
namespace {

constexpr int kTries = 5;
constexpr int64_t kReadBytes = int64_t{256} << 20;  // per thread: well beyond any share of a cache

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

double measure_int8(const cpu::Kernels& kernels, ThreadPool& pool) {
  // As many rounds as take about 10 ms.
  int64_t rounds = 1000;
  int64_t per_round = 0;
  for (double took = 0; took < 0.01; rounds *= 2) {
    const double start = seconds();
    per_round = kernels.int8_rounds(rounds);
    took = seconds() - start;
  }
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const double start = seconds();
    pool.for_parts(pool.size(), [&](int, int64_t) { kernels.int8_rounds(rounds); });
    best = std::max(best, static_cast<double>(per_round * rounds * pool.size()) / (seconds() - start));
  }
  return best / 1e9;
}

}  // namespace

Result<MachineLimits> measure_machine(int threads) {
  QUERN_TRY(const cpu::Kernels* kernels, cpu::choose_kernels(""));
  ThreadPool pool(threads > 0 ? threads : physical_cores());
  QUERN_TRY(Buffer buffer, Buffer::allocate(static_cast<size_t>(kReadBytes * pool.size())));
  pool.for_parts(pool.size(),
                 [&](int, int64_t part) { std::memset(buffer.data() + part * kReadBytes, 1, kReadBytes); });
  MachineLimits limits;
  limits.cpu = cpu_name();
  limits.isa = kernels->name;
  limits.threads = pool.size();
  limits.read_gb_s = measure_read(*kernels, pool, buffer, kReadBytes);
  limits.int8_gops = measure_int8(*kernels, pool);
  return limits;
}

}  // namespace quern
