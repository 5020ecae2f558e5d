// When to try again, and how long to wait before. Pure, but for the waiting itself.
#pragma once

#include <chrono>
#include <optional>
#include <stop_token>
#include <string>

#include "hub/http.h"

namespace quern::hub {

/// Whether another try may help: time-outs, dropped connections, 408, 429, 5xx.
bool worth_retrying(const HttpReply& reply);

/// `Retry-After` as seconds or as a date; empty when it says neither.
std::optional<std::chrono::seconds> retry_after(const std::string& value, std::time_t now);

/// Before try number `attempt` (1: the first repetition): 0.5 s, 1 s, 2 s … 30 s, times 0.75 … 1.25 by
/// `jitter` (0 … 1); at least what the server asked for, as long as that is bearable (5 minutes).
std::chrono::milliseconds retry_delay(int attempt, const HttpReply& reply, double jitter, std::time_t now);

/// Tries in a row without any progress before giving up.
inline constexpr int kMaxAttempts = 6;

/// Sleeps; false when stopped.
bool sleep_for(std::chrono::milliseconds time, const std::stop_token& stop);

/// Waits as retry_delay says; false when stopped.
bool wait_to_retry(int attempt, const HttpReply& reply, const std::stop_token& stop);

}  // namespace quern::hub
