// A long job's progress on stderr: a bar on a terminal, in logs a line now and then.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace quern {

class JobProgress {
 public:
  /// "quantizing", "owner/repo".
  JobProgress(std::string what, std::string of);
  ~JobProgress() { finish(); }
  JobProgress(const JobProgress&) = delete;
  JobProgress& operator=(const JobProgress&) = delete;

  void update(uint64_t done, uint64_t total);
  /// Ends the bar's line.
  void finish();

 private:
  const std::string what_, of_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last_;
  bool on_terminal_, drawn_ = false;
};

}  // namespace quern
