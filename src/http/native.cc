// /api/generate, /api/chat and /api/completions, with their streams.
#include "http/fill_in.h"
#include "http/handlers.h"
#include "http/prompt.h"
#include "http/request_fields.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::eos:
      return "eos";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::length:
      break;
  }
  return "length";
}

class NativeShape final : public Shape {
 public:
  NativeShape(std::string model, bool chat) : model_(std::move(model)), chat_(chat) {}
  ErrorStyle style() const override { return ErrorStyle::native; }

  std::string whole(std::span<const Choice> choices) override {
    const Choice& choice = choices[0];
    Json body;
    if (chat_)
      body["message"] = {{"role", "assistant"}, {"content", choice.text}};
    else
      body["text"] = choice.text;
    body["model"] = model_;
    body["tokens_generated"] = choice.generated;
    body["finish_reason"] = name_of(choice.finish->reason);
    return dump(body);
  }
  void stream_delta(size_t, const Delta& delta, std::string& out) override {
    if (delta.text.empty()) return;
    append_event(out, dump({{chat_ ? "content" : "text", delta.text}}));
  }
  void stream_finish(size_t, const Choice& choice, std::string& out) override {
    append_event(out, dump({{"done", true},
                            {"finish_reason", name_of(choice.finish->reason)},
                            {"tokens_generated", choice.generated}}));
  }
  void stream_end(std::span<const Choice>, std::string& out) override { append_event(out, "[DONE]"); }

 private:
  std::string model_;
  bool chat_;
};

Parsed<Reply> answer(App& app, std::shared_ptr<ServedModel> model, Request request, bool chat, bool stream) {
  auto shape = std::make_unique<NativeShape>(model->id, chat);
  std::vector<Request> requests;
  requests.push_back(std::move(request));
  return Answer::begin(std::move(model), std::move(requests), std::move(shape), stream,
                       app.limits.stream_bytes);
}

Parsed<Reply> answer_text(App& app, const HttpRequest& http, std::span<const FieldSpec> fields, bool stream) {
  QUERN_TRY(const Body body, Body::parse(http.body, fields));
  QUERN_TRY(auto model, find_model(app, body.string("model")));
  QUERN_TRY(Request request, read_request(app, *model, body, http));
  QUERN_TRY(request.prompt, fill_in_prompt(*model, *body.string("prompt"), body.string("suffix")));
  return answer(app, std::move(model), std::move(request), false, stream);
}

Parsed<Reply> answer_chat(App& app, const HttpRequest& http, bool stream) {
  QUERN_TRY(const Body body, Body::parse(http.body, native_chat_fields()));
  QUERN_TRY(auto model, find_model(app, body.string("model")));
  QUERN_TRY(Request request, read_request(app, *model, body, http));
  QUERN_TRY(request.prompt, conversation_tokens(*model, body));
  return answer(app, std::move(model), std::move(request), true, stream);
}

}  // namespace

std::span<const FieldSpec> generate_fields() {
  static const FieldSpec own[] = {{.name = "prompt",
                                   .kind = Kind::string,
                                   .about = "The text to go on from, taken as it is: no chat template.",
                                   .required = true}};
  static const auto fields = join_fields({own, generation_fields()});
  return fields;
}

std::span<const FieldSpec> native_chat_fields() {
  static const auto fields = join_fields({conversation_fields(), generation_fields()});
  return fields;
}

std::span<const FieldSpec> native_completion_fields() {
  static const FieldSpec own[] = {
      {.name = "suffix", .kind = Kind::string, .about = "What follows the gap: fill in the middle."}};
  static const auto fields = join_fields({generate_fields().first(1), own, generation_fields()});
  return fields;
}

Parsed<Reply> generate(App& app, const HttpRequest& request) {
  return answer_text(app, request, generate_fields(), false);
}
Parsed<Reply> generate_stream(App& app, const HttpRequest& request) {
  return answer_text(app, request, generate_fields(), true);
}
Parsed<Reply> native_completion(App& app, const HttpRequest& request) {
  return answer_text(app, request, native_completion_fields(), false);
}
Parsed<Reply> native_completion_stream(App& app, const HttpRequest& request) {
  return answer_text(app, request, native_completion_fields(), true);
}
Parsed<Reply> native_chat(App& app, const HttpRequest& request) { return answer_chat(app, request, false); }
Parsed<Reply> native_chat_stream(App& app, const HttpRequest& request) {
  return answer_chat(app, request, true);
}

}  // namespace quern
