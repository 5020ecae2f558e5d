// What a model is made of, and OpenAI's list of models.
#include "http/handlers.h"
#include "models/quantization_report.h"

namespace quern {
namespace {

Json openai_entry(const App& app, const ModelStatus& status) {
  Json entry = {{"id", status.id}, {"object", "model"}, {"created", app.started}, {"owned_by", "quern"}};
  if (status.context > 0) entry["max_model_len"] = status.context;
  return entry;
}

}  // namespace

Parsed<Reply> llm_quantization(App& app, const HttpRequest& request) {
  QUERN_TRY(const auto model, find_model(app, request.param));
  Json body = {{"id", model->id}, {"tensors", Json::array()}};
  for (const QuantizedTensor& tensor : quantization_report(*model->source))
    body["tensors"].push_back({{"name", tensor.name},
                               {"shape", tensor.shape},
                               {"asked", asked_name(tensor)},
                               {"used", tensor.stored_as},
                               {"why", tensor.type.why},
                               {"error", tensor.error < 0 ? Json() : Json(tensor.error)},
                               {"bytes", tensor.bytes}});
  return HttpResponse::json(dump(body));
}

Parsed<Reply> openai_models(App& app, const HttpRequest&) {
  Json body = {{"object", "list"}, {"data", Json::array()}};
  for (const ModelStatus& status : app.host.status()) body["data"].push_back(openai_entry(app, status));
  return HttpResponse::json(dump(body));
}

Parsed<Reply> openai_model(App& app, const HttpRequest& request) {
  const auto status = app.host.status_of(request.param);
  if (!status) return fail(ApiError{ApiErrorKind::unknown_model, status.error().message, "model"});
  return HttpResponse::json(dump(openai_entry(app, *status)));
}

}  // namespace quern
