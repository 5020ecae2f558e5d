#include "hub/retry.h"

#include <curl/curl.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <random>

namespace quern::hub {

bool worth_retrying(const HttpReply& reply) {
  switch (reply.broken) {
    case Broken::unreachable:
    case Broken::timeout:
    case Broken::dropped:
      return true;
    case Broken::no:
      return reply.status == 408 || reply.status == 429 || (reply.status >= 500 && reply.status != 501);
    default:
      return false;
  }
}

std::optional<std::chrono::seconds> retry_after(const std::string& value, std::time_t now) {
  if (value.empty()) return std::nullopt;
  int64_t seconds = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
  if (error == std::errc() && end == value.data() + value.size())
    return std::chrono::seconds(std::clamp<int64_t>(seconds, 0, 86400));
  const std::time_t date = curl_getdate(value.c_str(), nullptr);
  if (date == -1) return std::nullopt;
  return std::chrono::seconds(std::clamp<int64_t>(date - now, 0, 86400));
}

std::chrono::milliseconds retry_delay(int attempt, const HttpReply& reply, double jitter, std::time_t now) {
  using std::chrono::milliseconds;
  const double backoff = std::min(500.0 * std::pow(2.0, std::clamp(attempt, 1, 10) - 1), 30'000.0);
  const auto delay = milliseconds(static_cast<int64_t>(backoff * (0.75 + 0.5 * jitter)));
  const auto asked = retry_after(reply.header("retry-after"), now);
  if (!asked) return delay;
  return std::max(delay, std::min<milliseconds>(*asked, std::chrono::minutes(5)));
}

bool sleep_for(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

bool wait_to_retry(int attempt, const HttpReply& reply, const std::stop_token& stop) {
  thread_local std::minstd_rand random(std::random_device{}());
  const double jitter = std::uniform_real_distribution<double>(0, 1)(random);
  return sleep_for(retry_delay(attempt, reply, jitter, std::time(nullptr)), stop);
}

}  // namespace quern::hub
