// Those who want to be told of a change.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>

namespace quern {

/// Has a lock of its own, so that they may be told while nobody holds that of what they watch.
class Watchers {
 public:
  uint64_t add(std::function<void()> changed) {
    const std::lock_guard lock(mutex_);
    watchers_.emplace(++last_, std::move(changed));
    return last_;
  }
  /// No call is under way when it returns.
  void remove(uint64_t watcher) {
    const std::lock_guard lock(mutex_);
    watchers_.erase(watcher);
  }
  void tell() {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, changed] : watchers_) changed();
  }

 private:
  std::mutex mutex_;
  uint64_t last_ = 0;
  std::map<uint64_t, std::function<void()>> watchers_;
};

}  // namespace quern
