#include "hub/progress.h"

#include <algorithm>

namespace quern::hub {
namespace {

constexpr auto kInterval = std::chrono::milliseconds(200);
constexpr auto kWindow = std::chrono::seconds(8);

}  // namespace

void Meter::phase(HubProgress::Phase phase, const std::string& file) {
  const std::scoped_lock lock(mutex_);
  progress_.phase = phase;
  progress_.file = file;
  update(true);
}

void Meter::add_total(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  progress_.bytes_total += bytes;
}

void Meter::add_found(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  progress_.bytes_done += bytes;
  update(false);
}

void Meter::add_fetched(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  progress_.bytes_done += bytes;
  fetched_ += bytes;
  update(false);
}

void Meter::take_back(uint64_t bytes) {
  const std::scoped_lock lock(mutex_);
  progress_.bytes_done -= std::min(bytes, progress_.bytes_done);
}

void Meter::finish() {
  const std::scoped_lock lock(mutex_);
  progress_.phase = HubProgress::Phase::done;
  update(true);
}

void Meter::measure(Clock::time_point now) {
  samples_.push_back({now, fetched_});
  while (samples_.size() > 2 && now - samples_.front().time > kWindow) samples_.pop_front();
  const double seconds = std::chrono::duration<double>(now - samples_.front().time).count();
  const double bytes = static_cast<double>(fetched_ - samples_.front().fetched);
  progress_.bytes_per_second = seconds > 0.1 ? bytes / seconds : 0;
  const double left =
      static_cast<double>(progress_.bytes_total - std::min(progress_.bytes_done, progress_.bytes_total));
  progress_.eta_s = progress_.bytes_per_second > 0 ? left / progress_.bytes_per_second : -1;
}

void Meter::update(bool now) {
  const auto time = Clock::now();
  if (!now && time - last_call_ < kInterval) return;
  last_call_ = time;
  measure(time);
  if (sink_) sink_(progress_);
}

}  // namespace quern::hub
