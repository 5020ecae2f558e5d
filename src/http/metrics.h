// Prometheus metrics of the server.
#pragma once

#include <memory>
#include <string>

#include "engine/engine.h"

namespace quern {

class ModelHost;

/// Histograms fed by engines (EngineObserver) and gauges read from the host when scraped. Thread-safe.
class Metrics : public EngineObserver {
 public:
  static std::unique_ptr<Metrics> create();
  /// Prometheus text exposition; `host` may be null. `waiting`: requests that no engine knows of yet.
  virtual std::string expose(const ModelHost* host, int waiting = 0) = 0;
  /// One HTTP request answered.
  virtual void http_request(std::string_view route, int status, double seconds) = 0;
};

}  // namespace quern
