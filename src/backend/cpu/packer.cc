#include "backend/cpu/packer.h"

#include <sched.h>

#include <algorithm>
#include <system_error>

#include "backend/cpu/weight.h"

namespace quern::cpu {

void Packer::add(CpuWeight* weight) {
  const std::lock_guard lock(mutex_);
  queue_.push_back(weight);
  try {
    if (!thread_.joinable()) thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  } catch (const std::system_error&) {
    return;  // a limit on processes: steps pack what they use
  }
  changed_.notify_all();
}

void Packer::remove(CpuWeight* weight) {
  std::unique_lock lock(mutex_);
  std::erase(queue_, weight);
  if (current_ != weight) return;
  leave_ = true;
  changed_.wait(lock, [&] { return current_ != weight; });
}

void Packer::wait_until_idle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !thread_.joinable() || (queue_.empty() && current_ == nullptr); });
}

void Packer::run(const std::stop_token& stop) {
  // For this thread alone. Not the lowest usual priority: beside a thread of that, Linux leaves a core's
  // other threads where they are, two of a step's on one core; a core with an idle thread counts as free.
  // Should it be refused, the work goes on with the usual one.
  const sched_param none{};
  sched_setscheduler(0, SCHED_IDLE, &none);
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !queue_.empty(); }) && !stop.stop_requested()) {
    current_ = queue_.front();
    queue_.pop_front();
    leave_ = false;
    lock.unlock();
    pack(*current_);
    lock.lock();
    current_ = nullptr;
    changed_.notify_all();
  }
}

void Packer::pack(CpuWeight& weight) {
  for (int64_t m = 0; m < weight.experts; ++m) {
    int64_t t = 0;
    while (uint8_t* out = weight.claim_tile(m, t)) {
      if (leave_.load(std::memory_order_relaxed)) return weight.give_up(m);
      weight.pack_tile(kernels_, m, t++, out);
    }
    if (t > 0) weight.publish(m);  // else a step packs it, or has
  }
}

}  // namespace quern::cpu
