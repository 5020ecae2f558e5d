// Packs weights in the background, in the order in which they came.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "backend/cpu/kernels.h"

namespace quern::cpu {

class CpuWeight;

/// Weights hold on to it, so it has nothing left to do when it goes.
///
/// One thread that runs where nobody else wants to (SCHED_IDLE), not of the pool: a step of any model goes on
/// as if it were not there. `remove` waits for one tile at most, which on a busy machine takes a while.
class Packer {
 public:
  explicit Packer(const Kernels& kernels) : kernels_(kernels) {}

  /// Starts the thread with the first weight.
  void add(CpuWeight* weight);
  /// Returns when the thread will not touch the weight any more: at once, or after the tile in work.
  void remove(CpuWeight* weight);
  /// Waits until there is nothing to pack.
  void wait_until_idle();

 private:
  void run(const std::stop_token& stop);
  void pack(CpuWeight& weight);

  const Kernels& kernels_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<CpuWeight*> queue_;    // guarded by mutex_
  CpuWeight* current_ = nullptr;    // likewise; set by the thread alone
  std::atomic<bool> leave_{false};  // `current_` is to be left alone
  std::jthread thread_;             // likewise guarded; last: all else is there before it starts
};

}  // namespace quern::cpu
