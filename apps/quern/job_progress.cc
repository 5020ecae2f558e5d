#include "job_progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <utility>

#include "core/log.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kBetweenBars = std::chrono::milliseconds(100);
constexpr auto kBetweenLines = std::chrono::seconds(5);

}  // namespace

JobProgress::JobProgress(std::string what, std::string of)
    : what_(std::move(what)), of_(std::move(of)), last_(start_), on_terminal_(isatty(STDERR_FILENO) != 0) {}

void JobProgress::update(uint64_t done, uint64_t total) {
  const auto now = Clock::now();
  const bool whole = done >= total;
  if (now - last_ < (on_terminal_ ? Clock::duration(kBetweenBars) : Clock::duration(kBetweenLines)) &&
      !(on_terminal_ && whole && drawn_))
    return;
  last_ = now;
  const double taken = std::chrono::duration<double>(now - start_).count();
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
  const double left = share > 0 ? taken * (1 - share) / share : 0;
  if (!on_terminal_)
    return log::info(
        what_,
        {{"model", of_}, {"bytes", done}, {"of", total}, {"seconds_left", static_cast<int64_t>(left)}});
  constexpr int kWidth = 30;
  const auto filled = static_cast<size_t>(kWidth * share);
  fmt::print(stderr, "\r{} {} [{:<30}] {:3.0f} %, {:.0f} s left \x1b[K", what_, of_, std::string(filled, '#'),
             100 * share, left);
  drawn_ = true;
}

void JobProgress::finish() {
  if (std::exchange(drawn_, false)) fmt::print(stderr, "\n");
}

}  // namespace quern
