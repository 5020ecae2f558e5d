// A fixed set of threads that share the parts of one job.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

namespace quern {

/// Jobs come from one thread at a time, which takes part as thread 0. Each thread takes the parts of its
/// share in order, an eighth of what is left at once, so that what lies side by side in memory is read by one
/// core; who has none left takes the back half of what another still has. A worker that has not come by the
/// time the last part is taken is not waited for: on a busy machine the pool is as fast as the threads that
/// do get a core. Workers spin briefly for the next job, then sleep, so that an idle server costs nothing.
class ThreadPool {
 public:
  static constexpr int kMostThreads = 1024;

  /// threads ≥ 1, the caller included; at most kMostThreads. size() is less where the system does not give as
  /// many.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  /// Calls body(thread, begin, end) for ranges that together are all parts, [0, parts), each range on a
  /// thread in [0, size()), several threads at a time; returns when all have returned. The body must not
  /// throw and must not use the pool.
  template <class Body>
  void for_ranges(int64_t parts, const Body& body) {
    if (size() == 1 || parts <= 1) {
      if (parts > 0) body(0, 0, parts);
      return;
    }
    run([](const void* context, int thread, int64_t begin,
           int64_t end) { (*static_cast<const Body*>(context))(thread, begin, end); },
        &body, parts);
  }

  /// The same part by part: body(thread, part).
  template <class Body>
  void for_parts(int64_t parts, const Body& body) {
    for_ranges(parts, [&](int thread, int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) body(thread, part);
    });
  }

  /// Calls body(begin, end) for ranges of whole `granule`s of [0, count) (the last may be shorter).
  template <class Body>
  void parallel_for(int64_t count, int64_t granule, const Body& body) {
    for_ranges((count + granule - 1) / granule, [&](int, int64_t begin, int64_t end) {
      body(begin * granule, std::min(end * granule, count));
    });
  }

 private:
  using Erased = void (*)(const void* context, int thread, int64_t begin, int64_t end);
  void run(Erased call, const void* context, int64_t parts);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quern
