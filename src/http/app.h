// What handlers work with, and what they give back.
#pragma once

#include <atomic>
#include <memory>
#include <variant>

#include "config/config.h"
#include "engine/model_host.h"
#include "http/generation.h"
#include "http/limits.h"
#include "http/metrics.h"

namespace quern {

/// One per server; outlives all requests.
struct App {
  const Config& config;
  ModelHost& host;
  Metrics& metrics;
  ServerLimits limits;
  int64_t started = 0;                // unix time
  std::atomic<bool> draining{false};  // stopping: nothing new
  std::atomic<int> waiting{0};        // requests whose model is on its way
};

/// A whole response, or an answer that an engine is working on.
using Reply = std::variant<HttpResponse, std::unique_ptr<Answer>>;
/// An error takes the shape of its route; after model_coming the handler is called again.
using Handler = Parsed<Reply> (*)(App& app, const HttpRequest& request);

/// The model that a request names ("" and absent: the default one). 404 names what is served; model_load says
/// why it failed; model_coming: it is not ready yet.
Parsed<std::shared_ptr<ServedModel>> find_model(App& app, const std::optional<std::string>& name);

}  // namespace quern
