// Bars on a terminal, lines elsewhere: how far several downloads are.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "hub/progress.h"

namespace quern {

/// Thread-safe. Writes to stderr, so that stdout holds results alone.
class ProgressBars {
 public:
  /// One bar each. `quiet`: shows nothing.
  ProgressBars(std::vector<std::string> names, bool quiet);

  void update(size_t index, const HubProgress& progress);
  /// The last word on one of them, such as "done" or "failed".
  void finish(size_t index, const std::string& text);

 private:
  struct Bar {
    std::string name, text;
    HubProgress progress;
    bool finished = false;
    std::chrono::steady_clock::time_point last_line;
  };
  void draw();
  std::string line(const Bar& bar, size_t width) const;

  const bool quiet_, terminal_;
  std::mutex mutex_;
  std::vector<Bar> bars_;  // guarded by mutex_
  bool drawn_ = false;     // guarded by mutex_
};

/// "1 h 02 min", "3 min 20 s", "12 s"
std::string human_time(double seconds);

}  // namespace quern
