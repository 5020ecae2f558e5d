#include "core/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace quern {
namespace {

// On x86 of today 50 to 150 µs: longer than the gap between two ops of a step, shorter than anyone notices
// when idle.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The gate: one bit, whether workers may come in; then how many came; then the number of the job (which may
// wrap around: a worker that slept through them all only misses jobs, as it may).
constexpr uint32_t kOpen = 1, kOne = 2;
constexpr int kCameBits = 11;
constexpr uint32_t came(uint32_t gate) { return gate / kOne & ((1u << kCameBits) - 1); }
constexpr uint32_t job(uint32_t gate) { return gate >> (kCameBits + 1); }
constexpr int kMostThreads = 1024;

}  // namespace

struct ThreadPool::State {
  // The job: written while the gate is closed and all who came have left.
  Erased call = nullptr;
  const void* context = nullptr;
  int64_t parts = 0;
  alignas(64) std::atomic<int64_t> next{0};  // the first part that nobody has
  alignas(64) std::atomic<uint32_t> gate{0};
  alignas(64) std::atomic<uint32_t> left{0};
  std::atomic<bool> stop{false};
  int threads = 1;
  std::vector<std::jthread> workers;

  void help(int thread) {
    for (int64_t part = next.fetch_add(1, std::memory_order_relaxed); part < parts;
         part = next.fetch_add(1, std::memory_order_relaxed))
      call(context, thread, part);
  }

  void work(int thread) {
    uint32_t done = 0;  // the last job this thread helped with
    int spins = 0;
    while (!stop.load(std::memory_order_relaxed)) {
      uint32_t now = gate.load(std::memory_order_acquire);
      if ((now & kOpen) == 0 || job(now) == done) {
        if (++spins < kSpins) {
          relax();
        } else {
          gate.wait(now, std::memory_order_acquire);
          spins = 0;
        }
        continue;
      }
      if (!gate.compare_exchange_weak(now, now + kOne, std::memory_order_acq_rel)) continue;
      done = job(now);
      spins = 0;
      help(thread);
      left.fetch_add(1, std::memory_order_acq_rel);
      left.notify_one();
    }
  }

  void open() {
    next.store(0, std::memory_order_relaxed);
    left.store(0, std::memory_order_relaxed);
    const uint32_t number = job(gate.load(std::memory_order_relaxed)) + 1;
    gate.store(number << (kCameBits + 1) | kOpen, std::memory_order_release);
    gate.notify_all();
  }

  /// Nobody comes in any more; returns when all who did have left.
  void close() {
    const uint32_t awaited = came(gate.fetch_and(~kOpen, std::memory_order_acq_rel));
    uint32_t now = left.load(std::memory_order_acquire);
    for (int spins = 0; now != awaited; now = left.load(std::memory_order_acquire)) {
      if (++spins < kSpins)
        relax();
      else
        left.wait(now, std::memory_order_acquire);
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  state_->threads = std::clamp(threads, 1, kMostThreads);
  for (int i = 1; i < state_->threads; ++i)
    state_->workers.emplace_back([state = state_.get(), i] { state->work(i); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->gate.fetch_add(1u << (kCameBits + 1), std::memory_order_release);
  state_->gate.notify_all();
}

int ThreadPool::size() const { return state_->threads; }

void ThreadPool::run(Erased call, const void* context, int64_t parts) {
  State& state = *state_;
  state.call = call;
  state.context = context;
  state.parts = parts;
  state.open();
  state.help(0);
  state.close();
}

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream siblings("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                           "/topology/thread_siblings_list");
    std::string line;
    if (!std::getline(siblings, line)) line = std::to_string(cpu);
    cores.insert(line);
  }
  int count = cores.empty() ? 1 : static_cast<int>(cores.size());
  // A container's CPU quota (cgroup v2): "max 100000" or "200000 100000".
  std::ifstream quota("/sys/fs/cgroup/cpu.max");
  std::string limit;
  double period = 0;
  if (quota >> limit >> period && limit != "max" && period > 0) {
    const int whole = static_cast<int>(std::stod(limit) / period);
    if (whole >= 1 && whole < count) count = whole;
  }
  return count;
}

}  // namespace quern
