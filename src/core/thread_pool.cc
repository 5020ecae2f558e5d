#include "core/thread_pool.h"

#include <atomic>
#include <system_error>
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

// The gate: one bit, whether workers may come in; then how many came; then the number of the job, from 1 up
// (which may wrap around: a worker that slept through them all only misses jobs, as it may).
constexpr uint32_t kOpen = 1, kOne = 2;
constexpr int kCameBits = 11;
constexpr uint32_t came(uint32_t gate) { return gate / kOne & ((1u << kCameBits) - 1); }
constexpr uint32_t job(uint32_t gate) { return gate >> (kCameBits + 1); }
constexpr uint32_t kLastJob = (1u << (32 - kCameBits - 1)) - 1;

/// The parts of a job that a thread has left to take, in one word: the job's number, begin and end.
constexpr int kPartBits = 22;
constexpr int64_t kMostParts = (int64_t{1} << kPartBits) - 1;

struct Range {
  uint32_t job;
  int64_t begin, end;

  static Range from(uint64_t word) {
    return {static_cast<uint32_t>(word >> (2 * kPartBits)),
            static_cast<int64_t>(word >> kPartBits & kMostParts), static_cast<int64_t>(word & kMostParts)};
  }
  uint64_t word() const {
    return uint64_t{job} << (2 * kPartBits) | static_cast<uint64_t>(begin) << kPartBits |
           static_cast<uint64_t>(end);
  }
  int64_t count() const { return end - begin; }
};

}  // namespace

struct ThreadPool::State {
  // The job: written while the gate is closed and all who came have left.
  Erased call = nullptr;
  const void* context = nullptr;
  int64_t first = 0, parts = 0;
  uint32_t number = 0;
  struct alignas(64) Left {
    std::atomic<uint64_t> word{0};
  };
  std::unique_ptr<Left[]> ranges;  // per thread
  alignas(64) std::atomic<uint32_t> gate{0};
  alignas(64) std::atomic<uint32_t> left{0};
  std::atomic<bool> stop{false};
  int threads = 1;
  std::vector<std::jthread> workers;

  ~State() {
    stop.store(true, std::memory_order_relaxed);
    gate.fetch_add(1u << (kCameBits + 1), std::memory_order_release);
    gate.notify_all();
  }

  /// What a thread has left: what its word says, or, where that is of another job, its share of this one,
  /// untouched.
  Range left_of(int thread, uint64_t word) const {
    const Range range = Range::from(word);
    if (range.job == number) return range;
    return {number, parts * thread / threads, parts * (thread + 1) / threads};
  }

  /// The next parts of this thread's own range. Not one at a time: a locked instruction waits until the core
  /// has finished all that it has begun, reading ahead included.
  Range take(int thread) {
    std::atomic<uint64_t>& own = ranges[static_cast<size_t>(thread)].word;
    uint64_t word = own.load(std::memory_order_relaxed);
    for (;;) {
      const Range range = left_of(thread, word);
      if (range.count() == 0) return range;
      const int64_t end = range.begin + (range.count() + 7) / 8;
      const Range rest{number, end, range.end};
      if (own.compare_exchange_weak(word, rest.word(), std::memory_order_relaxed))
        return {number, range.begin, end};
    }
  }

  /// Makes the back half of another thread's range this one's own; false when nobody has any left.
  bool steal(int thread) {
    for (int i = 1; i < threads; ++i) {
      const int from = (thread + i) % threads;
      std::atomic<uint64_t>& other = ranges[static_cast<size_t>(from)].word;
      uint64_t word = other.load(std::memory_order_relaxed);
      for (Range range = left_of(from, word); range.count() > 0; range = left_of(from, word)) {
        const int64_t middle = range.begin + range.count() / 2;
        const Range rest{number, range.begin, middle};
        if (!other.compare_exchange_weak(word, rest.word(), std::memory_order_relaxed)) continue;
        ranges[static_cast<size_t>(thread)].word.store(Range{number, middle, range.end}.word(),
                                                       std::memory_order_relaxed);
        return true;
      }
    }
    return false;
  }

  void help(int thread) {
    do {
      for (Range some = take(thread); some.count() > 0; some = take(thread))
        call(context, thread, first + some.begin, first + some.end);
    } while (steal(thread));
  }

  void work(int thread) {
    uint32_t done = 0;  // the last job this thread helped with
    int spins = 0;
    for (;;) {
      // In this order: a gate that was changed to end the wait shows that `stop` is set.
      uint32_t now = gate.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
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
    left.store(0, std::memory_order_relaxed);
    if (++number > kLastJob) {
      number = 1;
      for (int t = 0; t < threads; ++t)
        ranges[static_cast<size_t>(t)].word.store(0, std::memory_order_relaxed);
    }
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
  const int wanted = std::clamp(threads, 1, kMostThreads);
  state_->ranges = std::make_unique<State::Left[]>(static_cast<size_t>(wanted));
  state_->workers.reserve(static_cast<size_t>(wanted - 1));
  const auto start = [state = state_.get()](int thread) {
    try {
      state->workers.emplace_back([state, thread] { state->work(thread); });
      return true;
    } catch (const std::system_error&) {  // a limit on processes
      return false;
    }
  };
  while (state_->threads < wanted && start(state_->threads)) ++state_->threads;
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const { return state_->threads; }

void ThreadPool::run(Erased call, const void* context, int64_t parts) {
  State& state = *state_;
  state.call = call;
  state.context = context;
  for (state.first = 0; state.first < parts; state.first += kMostParts) {
    state.parts = std::min(parts - state.first, kMostParts);
    state.open();
    state.help(0);
    state.close();
  }
}

}  // namespace quern
