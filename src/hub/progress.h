// How far a download is: counted by many threads, shown to one watcher.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>

namespace quern {

struct HubProgress {
  enum class Phase { asking, waiting, downloading, checking, done };
  Phase phase = Phase::asking;  // waiting: for another process that is downloading the same file
  std::string file;             // the one being worked at
  uint64_t bytes_done = 0, bytes_total = 0;
  double bytes_per_second = 0;  // of the last seconds
  double eta_s = -1;            // −1: not known
};

/// Called from any thread, a few times a second; never two calls at once.
using HubProgressSink = std::function<void(const HubProgress&)>;

namespace hub {

class Meter {
 public:
  explicit Meter(HubProgressSink sink) : sink_(std::move(sink)) {}

  void phase(HubProgress::Phase phase, const std::string& file);
  void add_total(uint64_t bytes);
  /// Bytes that were there already: part of what is done, not of the speed.
  void add_found(uint64_t bytes);
  void add_fetched(uint64_t bytes);
  /// Bytes that turned out to be worth nothing.
  void take_back(uint64_t bytes);
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  struct Sample {
    Clock::time_point time;
    uint64_t fetched;
  };
  void update(bool now);
  void measure(Clock::time_point now);

  const HubProgressSink sink_;
  std::mutex mutex_;
  HubProgress progress_;         // guarded by mutex_
  uint64_t fetched_ = 0;         // guarded by mutex_
  std::deque<Sample> samples_;   // guarded by mutex_
  Clock::time_point last_call_;  // guarded by mutex_
};

}  // namespace hub
}  // namespace quern
