// /health/* and /metrics. Health is answered on the I/O threads, which nothing slow ever runs on.
#include "http/handlers.h"

namespace quern {
namespace {

std::string_view name_of(ModelState state) {
  switch (state) {
    case ModelState::absent:
      return "absent";
    case ModelState::downloading:
      return "downloading";
    case ModelState::loading:
      return "loading";
    case ModelState::ready:
      return "ready";
    case ModelState::failed:
      break;
  }
  return "failed";
}

}  // namespace

Parsed<Reply> health_live(App&, const HttpRequest&) { return HttpResponse::json(R"({"status":"alive"})"); }

Parsed<Reply> health_ready(App& app, const HttpRequest&) {
  const auto models = app.host.status();
  const bool ready = !app.draining && !models.empty() && models.front().state == ModelState::ready;
  Json body = {{"ready", ready}, {"models", Json::array()}};
  for (const ModelStatus& status : models) {
    body["models"].push_back({{"id", status.id},
                              {"state", name_of(status.state)},
                              {"bytes_done", status.bytes_done},
                              {"bytes_total", status.bytes_total},
                              {"eta_s", status.eta_s < 0 ? Json() : Json(status.eta_s)},
                              {"error", status.error.empty() ? Json() : Json(status.error)}});
  }
  return HttpResponse::json(dump(body), ready ? 200 : 503);
}

Parsed<Reply> metrics_text(App& app, const HttpRequest&) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = app.metrics.expose(&app.host, app.waiting);
  return response;
}

Parsed<Reply> list_llms(App& app, const HttpRequest&) {
  Json body = Json::array();
  for (const ModelStatus& status : app.host.status()) {
    body.push_back({{"id", status.id},
                    {"state", name_of(status.state)},
                    {"device", status.device},
                    {"quantization", status.quantization},
                    {"bytes", status.bytes},
                    {"parameters", status.parameters},
                    {"context", status.context},
                    {"bytes_done", status.bytes_done},
                    {"bytes_total", status.bytes_total},
                    {"eta_s", status.eta_s < 0 ? Json() : Json(status.eta_s)},
                    {"error", status.error.empty() ? Json() : Json(status.error)}});
  }
  return HttpResponse::json(dump(body));
}

}  // namespace quern
