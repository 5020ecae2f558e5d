// What a server's connections share.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>

#include "http/app.h"
#include "http/asio.h"
#include "http/error.h"

namespace quern {

/// What requests are told while the server ends.
inline ApiError stopping() { return {ApiErrorKind::unavailable, "the server is stopping", {}, 1}; }

class ServerState {
 public:
  using Clock = std::chrono::steady_clock;

  ServerState(const Config& config, ModelHost& host, Metrics& metrics, const ServerLimits& limits,
              size_t workers)
      : app{config, host, metrics, limits}, workers(workers) {}

  App app;
  /// Handlers run here: tokenizing a long text must not hold up the I/O threads.
  boost::asio::thread_pool workers;

  /// Connections are to end when they have nothing to do; answers under way go on.
  std::atomic<bool> closing{false};
  /// The grace period is over: answers under way are to end with an error.
  std::atomic<bool> aborting{false};

  /// Room for bodies, all connections together. False: there is none.
  bool take_body_room(size_t bytes) {
    size_t taken = body_bytes_;
    do {  // a request that is refused must not take room from another even for a moment
      if (bytes > app.limits.all_body_bytes - taken) return false;
    } while (!body_bytes_.compare_exchange_weak(taken, taken + bytes));
    return true;
  }
  void give_body_room(size_t bytes) { body_bytes_ -= bytes; }

  void request_begins() { ++active_; }
  void request_ends() {
    if (--active_ == 0 && on_idle) on_idle();
  }
  int active() const { return active_; }
  /// Called, on any I/O thread, when the last active request has ended.
  std::function<void()> on_idle;

 private:
  std::atomic<size_t> body_bytes_{0};
  std::atomic<int> active_{0};
};

}  // namespace quern
