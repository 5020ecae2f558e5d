// A fixed set of threads that share the parts of one job.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

namespace quern {

/// Jobs come from one thread at a time, which takes part as thread 0. Each thread takes the parts of its
/// share in order, so that what lies side by side in memory is read by one core; who has none left takes the
/// back half of what another still has. A worker that has not come by the time the last part is taken is not
/// waited for: on a busy machine the pool is as fast as the threads that do get a core. Workers spin briefly
/// for the next job, then sleep, so that an idle server costs nothing.
class ThreadPool {
 public:
  /// threads ≥ 1, the caller included; at most 1024.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  /// Calls body(thread, part) once for each part in [0, parts), several threads at a time, each part on a
  /// thread in [0, size()); returns when all have returned. The body must not throw and must not use the
  /// pool.
  template <class Body>
  void for_parts(int64_t parts, const Body& body) {
    if (size() == 1 || parts <= 1) {
      for (int64_t part = 0; part < parts; ++part) body(0, part);
      return;
    }
    run([](const void* context, int thread,
           int64_t part) { (*static_cast<const Body*>(context))(thread, part); },
        &body, parts);
  }

  /// Splits [0, count) into contiguous ranges of whole `granule`s (the last may be shorter), a few for each
  /// thread, and calls body(begin, end) for each.
  template <class Body>
  void parallel_for(int64_t count, int64_t granule, const Body& body) {
    const int64_t units = (count + granule - 1) / granule;
    const int64_t parts = size() == 1 ? std::min<int64_t>(units, 1) : std::min<int64_t>(units, 4 * size());
    for_parts(parts, [&](int, int64_t part) {
      const int64_t begin = units * part / parts * granule, end = units * (part + 1) / parts * granule;
      body(begin, std::min(end, count));
    });
  }

 private:
  using Erased = void (*)(const void* context, int thread, int64_t part);
  void run(Erased call, const void* context, int64_t parts);
  struct State;
  std::unique_ptr<State> state_;
};

/// Physical cores that this process may use (affinity and cgroup limits respected); at least 1.
int physical_cores();

}  // namespace quern
