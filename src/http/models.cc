// What a model is made of, and OpenAI's list of models.
#include "http/handlers.h"
#include "quant/quant.h"

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
  if (model->source) {
    for (const RawTensor& tensor : model->source->tensors()) {
      const std::string type(dtype_name(tensor.dtype));
      body["tensors"].push_back({{"name", tensor.name},
                                 {"shape", tensor.shape},
                                 {"asked", type},
                                 {"used", type},
                                 {"why", "as stored in the file"},
                                 {"error", Json()}});
    }
  }
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
