#include "progress_bars.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "command.h"

namespace quern {
namespace {

/// Between two lines of one download where there is no terminal.
constexpr auto kLineInterval = std::chrono::seconds(5);

size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

/// Cut in front, where names of one owner are alike; a character is taken for one column.
std::string fitted(const std::string& name, size_t width) {
  return name.size() <= width ? name : "…" + name.substr(name.size() - width + 1);
}

/// "4.1 GiB": one digit less than elsewhere, because a line of a terminal is short.
std::string short_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  for (; bytes >= 1000 && unit < 4; ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string numbers(const HubProgress& p) {
  const double done = static_cast<double>(p.bytes_done), total = static_cast<double>(p.bytes_total);
  std::string text = fmt::format("{:3.0f}%  {} of {}", total == 0 ? 0 : 100 * done / total, short_bytes(done),
                                 short_bytes(total));
  if (p.phase == HubProgress::Phase::checking) return text + "  checking";
  if (p.bytes_per_second <= 0) return text;
  text += fmt::format("  {}/s", short_bytes(p.bytes_per_second));
  return p.eta_s < 0 ? text : text + fmt::format("  {} left", human_time(p.eta_s));
}

std::string state(const HubProgress& p) {
  if (p.phase == HubProgress::Phase::asking) return "asking the hub";
  if (p.phase == HubProgress::Phase::waiting) return "waiting for another process that fetches it";
  return p.bytes_total == 0 ? std::string() : numbers(p);
}

}  // namespace

std::string human_time(double seconds) {
  const auto s = static_cast<uint64_t>(std::clamp(seconds, 0.0, 360'000.0));
  if (s >= 3600) return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
  if (s >= 60) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} s", s);
}

ProgressBars::ProgressBars(std::vector<std::string> names, bool quiet)
    : quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {
  for (std::string& name : names) bars_.push_back({.name = std::move(name)});
}

std::string ProgressBars::line(const Bar& bar, size_t width) const {
  const std::string right = bar.finished ? bar.text : state(bar.progress);
  std::string left = fitted(bar.name, std::max<size_t>(width / 4, 12));
  const size_t used = left.size() + right.size() + 6;
  const HubProgress& p = bar.progress;
  if (bar.finished || p.bytes_total == 0 || used + 6 > width) return fmt::format("{}  {}", left, right);
  const size_t room = std::min<size_t>(width - used, 40);
  const size_t full = std::min<size_t>(room, room * std::min(p.bytes_done, p.bytes_total) / p.bytes_total);
  return fmt::format("{}  [{}{}] {}", left, std::string(full, '#'), std::string(room - full, ' '), right);
}

void ProgressBars::draw() {
  const size_t width = terminal_width();
  std::string out;
  if (drawn_) out += fmt::format("\x1b[{}A", bars_.size());
  for (const Bar& bar : bars_) out += "\r\x1b[2K" + line(bar, width).substr(0, width + 2) + "\n";
  drawn_ = true;
  std::fwrite(out.data(), 1, out.size(), stderr);
  std::fflush(stderr);
}

void ProgressBars::update(size_t index, const HubProgress& progress) {
  if (quiet_) return;
  const std::scoped_lock lock(mutex_);
  Bar& bar = bars_[index];
  const bool new_phase = bar.progress.phase != progress.phase || bar.progress.file != progress.file;
  bar.progress = progress;
  if (terminal_) return draw();
  const auto now = std::chrono::steady_clock::now();
  const std::string text = state(progress);
  if (text.empty() || progress.phase == HubProgress::Phase::done ||
      (!new_phase && now - bar.last_line < kLineInterval))
    return;
  bar.last_line = now;
  fmt::print(stderr, "{}: {}{}{}\n", bar.name, progress.file == bar.name ? "" : progress.file,
             progress.file == bar.name ? "" : ": ", text);
}

void ProgressBars::finish(size_t index, const std::string& text) {
  if (quiet_) return;
  const std::scoped_lock lock(mutex_);
  bars_[index].finished = true;
  bars_[index].text = text;
  if (terminal_) return draw();
  fmt::print(stderr, "{}: {}\n", bars_[index].name, text);
}

}  // namespace quern
