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

// About 50 µs: longer than the gap between two ops of a step, shorter than anyone notices when idle.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct ThreadPool::State {
  Erased call = nullptr;
  const void* context = nullptr;
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<int> running{0};
  std::atomic<bool> stop{false};
  int threads = 1;
  std::vector<std::jthread> workers;

  void work(int thread) {
    uint32_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && generation.load(std::memory_order_acquire) == seen; ++i) relax();
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      call(context, thread, threads);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  state_->threads = threads < 1 ? 1 : threads;
  for (int i = 1; i < state_->threads; ++i)
    state_->workers.emplace_back([state = state_.get(), i] { state->work(i); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
}

int ThreadPool::size() const { return state_->threads; }

void ThreadPool::run_erased(Erased call, const void* context) {
  State& state = *state_;
  if (state.threads == 1) {
    call(context, 0, 1);
    return;
  }
  state.call = call;
  state.context = context;
  state.running.store(state.threads - 1, std::memory_order_relaxed);
  state.generation.fetch_add(1, std::memory_order_release);
  state.generation.notify_all();
  call(context, 0, state.threads);
  for (int i = 0; i < kSpins; ++i) {
    if (state.running.load(std::memory_order_acquire) == 0) return;
    relax();
  }
  for (int left = state.running.load(std::memory_order_acquire); left != 0;
       left = state.running.load(std::memory_order_acquire))
    state.running.wait(left, std::memory_order_acquire);
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
