// /v1/chat/completions.
#include "http/handlers.h"
#include "http/openai.h"
#include "http/prompt.h"
#include "http/request_fields.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

class ChatShape final : public Shape {
 public:
  ChatShape(std::shared_ptr<ServedModel> model, const OpenAiOptions& options, bool logprobs)
      : model_(std::move(model)), head_("chatcmpl-", *model_), options_(options), logprobs_(logprobs) {
    begun_.resize(static_cast<size_t>(options.n));
  }
  ErrorStyle style() const override { return ErrorStyle::openai; }

  std::string whole(std::span<const Choice> choices) override {
    Json body = head_.object("chat.completion");
    body["choices"] = Json::array();
    for (size_t i = 0; i < choices.size(); ++i) {
      body["choices"].push_back(
          {{"index", i},
           {"message", {{"role", "assistant"}, {"content", choices[i].text}, {"refusal", Json()}}},
           {"logprobs", logprobs_ ? logprobs(choices[i].tokens) : Json()},
           {"finish_reason", openai_finish(choices[i].finish->reason)}});
    }
    body["usage"] = openai_usage(choices, options_.n);
    return dump(body);
  }

  void stream_delta(size_t choice, const Delta& delta, std::string& out) override {
    begin(choice, out);
    if (delta.text.empty() && delta.tokens.empty()) return;
    chunk(choice, {{"content", delta.text}}, logprobs_ ? logprobs(delta.tokens) : Json(), Json(), out);
  }
  void stream_finish(size_t choice, const Choice& state, std::string& out) override {
    begin(choice, out);
    chunk(choice, Json::object(), Json(), openai_finish(state.finish->reason), out);
  }
  void stream_end(std::span<const Choice> choices, std::string& out) override {
    if (options_.include_usage) {
      Json body = head_.object("chat.completion.chunk");
      body["choices"] = Json::array();
      body["usage"] = openai_usage(choices, options_.n);
      append_event(out, dump(body));
    }
    append_event(out, "[DONE]");
  }

 private:
  /// The role comes in the first chunk of a choice, and only there.
  void begin(size_t choice, std::string& out) {
    if (begun_[choice]) return;
    begun_[choice] = true;
    chunk(choice, {{"role", "assistant"}, {"content", ""}}, Json(), Json(), out);
  }

  void chunk(size_t choice, Json delta, Json logprobs, Json finish, std::string& out) {
    Json body = head_.object("chat.completion.chunk");
    body["choices"] = Json::array({{{"index", choice},
                                    {"delta", std::move(delta)},
                                    {"logprobs", std::move(logprobs)},
                                    {"finish_reason", std::move(finish)}}});
    if (options_.include_usage) body["usage"] = Json();
    append_event(out, dump(body));
  }

  Json entry(int32_t token, const std::string& bytes, float logprob) const {
    Json numbers = Json::array();
    for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
    return {{"token", options_.tokens_as_ids ? token_text(*model_->tokenizer, token, true) : bytes},
            {"logprob", finite_logprob(logprob)},
            {"bytes", std::move(numbers)}};
  }

  Json logprobs(const std::vector<TokenInfo>& tokens) const {
    Json content = Json::array();
    for (const TokenInfo& token : tokens) {
      Json one = entry(token.token, token.bytes, token.logprob);
      one["top_logprobs"] = Json::array();
      for (const TokenLogprob& top : token.top)
        one["top_logprobs"].push_back(
            entry(top.token,
                  top.token == token.token ? token.bytes : token_text(*model_->tokenizer, top.token, false),
                  top.logprob));
      content.push_back(std::move(one));
    }
    return {{"content", std::move(content)}, {"refusal", Json()}};
  }

  std::shared_ptr<ServedModel> model_;
  OpenAiHead head_;
  OpenAiOptions options_;
  bool logprobs_;
  std::vector<bool> begun_;
};

/// Says no to what would otherwise be quietly ignored and change the answer.
Parsed<void> refuse_unsupported(const Body& body) {
  if (const Json* format = body.find("response_format")) {
    const auto type = format->is_object() ? format->find("type") : format->end();
    if (!format->is_object() || type == format->end())
      return bad_field("response_format", "must be an object with a type");
    if (*type != "text")
      return bad_field("response_format",
                       fmt::format("type {} is not supported yet: only text is", shown(*type)));
  }
  if (const Json* choice = body.find("tool_choice");
      choice != nullptr && *choice != "none" && *choice != "auto")
    return bad_field("tool_choice",
                     fmt::format("{} is not supported yet: only none and auto are", shown(*choice)));
  return {};
}

Parsed<int> read_top_logprobs(const Body& body) {
  const bool wanted = body.flag("logprobs", false);
  const int64_t top = body.integer("top_logprobs").value_or(0);
  if (!wanted && top > 0) return bad_field("top_logprobs", "only allowed when logprobs is true");
  return wanted ? static_cast<int>(top) : -1;
}

}  // namespace

std::span<const FieldSpec> openai_chat_fields() {
  static const FieldSpec own[] = {
      {.name = "max_completion_tokens",
       .kind = Kind::integer,
       .about = "Wins over max_tokens.",
       .least = 1,
       .most = 2147483647},
      {.name = "max_tokens",
       .kind = Kind::integer,
       .about = "Longest answer; cut to LLM_MAX_TOKENS_LIMIT.",
       .least = 1,
       .most = 2147483647},
      {.name = "logprobs", .kind = Kind::boolean, .about = "Give each token's log-probability."},
      {.name = "top_logprobs",
       .kind = Kind::integer,
       .about = "And those of that many alternatives.",
       .least = 0,
       .most = 20},
      {.name = "response_format", .kind = Kind::object, .about = "Only {\"type\": \"text\"} so far."},
      {.name = "tool_choice", .about = "none or auto."},
      {.name = "functions", .kind = Kind::array, .about = "The older form of tools."}};
  static const auto fields = join_fields({conversation_fields(), own, openai_fields(), generation_fields()});
  return fields;
}

Parsed<Reply> openai_chat(App& app, const HttpRequest& http) {
  QUERN_TRY(const Body body, Body::parse(http.body, openai_chat_fields()));
  QUERN_TRY(const OpenAiOptions options, read_openai_options(body));
  QUERN_TRY_VOID(refuse_unsupported(body));
  QUERN_TRY(const int top_logprobs, read_top_logprobs(body));
  QUERN_TRY_VOID(check_choices(app, options.n, "n"));
  QUERN_TRY(auto model, find_model(app, body.string("model")));
  QUERN_TRY(Request request, read_request(app, *model, body, http));
  request.top_logprobs = top_logprobs;
  QUERN_TRY(request.prompt, conversation_tokens(*model, body));

  std::vector<Request> requests;
  repeat_request(requests, request, options.n);
  if (!options.stream) QUERN_TRY_VOID(check_logprobs(app, *model, requests));
  auto shape = std::make_unique<ChatShape>(model, options, top_logprobs >= 0);
  return Answer::begin(std::move(model), std::move(requests), std::move(shape), options.stream,
                       app.limits.stream_bytes);
}

}  // namespace quern
