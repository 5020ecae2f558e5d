// A fixed set of threads that run one function together.
#pragma once

#include <cstdint>
#include <memory>

namespace quern {

/// `run` is called from one thread at a time and takes part as thread 0. Workers spin briefly for the next
/// call, then sleep, so that an idle server costs nothing.
class ThreadPool {
 public:
  /// threads ≥ 1, the caller included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  /// Calls body(thread, threads) once on every thread; returns when all have returned. The body must not
  /// throw and must not call run.
  template <class Body>
  void run(const Body& body) {
    run_erased([](const void* context, int thread,
                  int threads) { (*static_cast<const Body*>(context))(thread, threads); },
               &body);
  }

  /// Splits [0, count) into one contiguous part per thread, in units of `granule`, and calls
  /// body(begin, end) for each part that is not empty.
  template <class Body>
  void parallel_for(int64_t count, int64_t granule, const Body& body) {
    if (count <= 0) return;
    const int64_t units = (count + granule - 1) / granule;
    if (size() == 1 || units == 1) {
      body(int64_t{0}, count);
      return;
    }
    run([&](int thread, int threads) {
      const int64_t begin = units * thread / threads * granule;
      int64_t end = units * (thread + 1) / threads * granule;
      if (end > count) end = count;
      if (begin < end) body(begin, end);
    });
  }

 private:
  using Erased = void (*)(const void* context, int thread, int threads);
  void run_erased(Erased call, const void* context);
  struct State;
  std::unique_ptr<State> state_;
};

/// Physical cores that this process may use (affinity and cgroup limits respected); at least 1.
int physical_cores();

}  // namespace quern
