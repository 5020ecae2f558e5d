// The HTTP side: routes, native and OpenAI shapes, SSE. Posts requests to engines and writes what comes back.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "config/config.h"
#include "engine/model_host.h"
#include "http/limits.h"
#include "http/metrics.h"

namespace quern {

class Server {
 public:
  /// Binds and listens (io: address in use and the like, saying which) without serving yet. `config`,
  /// `host` and `metrics` outlive the server.
  static Result<std::unique_ptr<Server>> create(const Config& config, ModelHost& host, Metrics& metrics,
                                                const ServerLimits& limits = {});
  virtual ~Server() = default;
  /// The port in use (the one chosen by the system when 0 was asked for).
  virtual uint16_t port() const = 0;
  /// Serves until stop(); returns when all connections are closed.
  virtual void run() = 0;
  /// From any thread: refuses new connections and requests, lets running ones finish within `grace`, then
  /// ends them with an error. May be called again with a shorter time.
  virtual void stop(std::chrono::milliseconds grace) = 0;
};

}  // namespace quern
