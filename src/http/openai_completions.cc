// /v1/completions.
#include <algorithm>

#include "http/fill_in.h"
#include "http/handlers.h"
#include "http/openai.h"
#include "http/request_fields.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

constexpr size_t kMaxPrompts = 128;
constexpr std::string_view kPromptSchema =
    R"({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}]})";

struct Prompt {
  std::string text;  // for echo
  std::vector<int32_t> tokens;
};

int64_t characters(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return count;
}

/// SentencePiece-style encoding puts a space before the first word, so that its token says more than the
/// text: `tokens` become those of `text`.
void drop_added_space(const Tokenizer& tokenizer, std::string_view text, std::vector<TokenInfo>& tokens) {
  const auto spaces = [](std::string_view part) {
    return std::min(part.find_first_not_of(' '), part.size());
  };
  TokenInfo* first = nullptr;
  size_t count = 0;  // before the first word, as the tokens have it
  for (TokenInfo& token : tokens) {
    if (tokenizer.is_control(token.token) || token.bytes.empty()) continue;
    if (first == nullptr) first = &token;
    count += spaces(token.bytes);
    if (spaces(token.bytes) < token.bytes.size()) break;
  }
  if (count > spaces(text)) first->bytes.erase(0, 1);
}

/// The four parallel lists of OpenAI's completions, of which a stream sends parts.
class LogprobLists {
 public:
  LogprobLists(const Tokenizer& tokenizer, bool as_ids) : tokenizer_(tokenizer), as_ids_(as_ids) {}

  /// `offset`: characters of the answer before the first token; moved past the last one.
  Json of(std::span<const TokenInfo> tokens, int64_t& offset) const {
    Json lists = {{"tokens", Json::array()},
                  {"token_logprobs", Json::array()},
                  {"top_logprobs", Json::array()},
                  {"text_offset", Json::array()}};
    for (const TokenInfo& token : tokens) {
      const std::string text = name(token.token, token.bytes);
      lists["tokens"].push_back(text);
      lists["token_logprobs"].push_back(token.has_logprob ? Json(finite_logprob(token.logprob)) : Json());
      lists["text_offset"].push_back(offset);
      Json top;
      if (token.has_logprob) {
        top = Json::object();
        for (const TokenLogprob& other : token.top)
          top[other.token == token.token ? text : name(other.token, {})] = finite_logprob(other.logprob);
        top[text] = finite_logprob(token.logprob);
      }
      lists["top_logprobs"].push_back(std::move(top));
      offset += characters(token.bytes);
    }
    return lists;
  }

 private:
  std::string name(int32_t token, const std::string& bytes) const {
    return as_ids_ || bytes.empty() ? token_text(tokenizer_, token, as_ids_) : bytes;
  }

  const Tokenizer& tokenizer_;
  bool as_ids_;
};

class CompletionShape final : public Shape {
 public:
  CompletionShape(std::shared_ptr<ServedModel> model, const OpenAiOptions& options, bool logprobs, bool echo,
                  std::vector<Prompt> prompts)
      : model_(std::move(model)),
        head_("cmpl-", *model_),
        options_(options),
        logprobs_(logprobs),
        echo_(echo),
        lists_(*model_->tokenizer, options.tokens_as_ids) {
    states_.resize(prompts.size() * static_cast<size_t>(options.n));
    for (size_t i = 0; i < states_.size() && echo; ++i)
      states_[i].echo = prompts[i / static_cast<size_t>(options.n)].text;
  }
  ErrorStyle style() const override { return ErrorStyle::openai; }

  std::string whole(std::span<const Choice> choices) override {
    Json body = head_.object("text_completion");
    body["choices"] = Json::array();
    for (size_t i = 0; i < choices.size(); ++i) {
      std::vector<TokenInfo> tokens = choices[i].prompt;
      drop_added_space(*model_->tokenizer, states_[i].echo, tokens);
      tokens.insert(tokens.end(), choices[i].tokens.begin(), choices[i].tokens.end());
      int64_t offset = 0;
      body["choices"].push_back({{"index", i},
                                 {"text", states_[i].echo + choices[i].text},
                                 {"logprobs", logprobs_ ? lists_.of(tokens, offset) : Json()},
                                 {"finish_reason", openai_finish(choices[i].finish->reason)}});
    }
    body["usage"] = openai_usage(choices, options_.n);
    return dump(body);
  }

  void stream_prompt(size_t choice, const PromptInfo& prompt, std::string& out) override {
    std::vector<TokenInfo> tokens = prompt.tokens;
    drop_added_space(*model_->tokenizer, states_[choice].echo, tokens);
    begin(choice, tokens, out);
  }
  void stream_delta(size_t choice, const Delta& delta, std::string& out) override {
    begin(choice, {}, out);
    if (delta.text.empty() && delta.tokens.empty()) return;
    chunk(choice, delta.text, delta.tokens, Json(), out);
  }
  void stream_finish(size_t choice, const Choice& state, std::string& out) override {
    begin(choice, {}, out);
    chunk(choice, "", {}, openai_finish(state.finish->reason), out);
  }
  void stream_end(std::span<const Choice> choices, std::string& out) override {
    if (options_.include_usage) {
      Json body = head_.object("text_completion");
      body["choices"] = Json::array();
      body["usage"] = openai_usage(choices, options_.n);
      append_event(out, dump(body));
    }
    append_event(out, "[DONE]");
  }

 private:
  struct State {
    std::string echo;
    bool begun = false;
    int64_t offset = 0;
  };

  /// The prompt comes first, once.
  void begin(size_t choice, std::span<const TokenInfo> tokens, std::string& out) {
    if (std::exchange(states_[choice].begun, true) || !echo_) return;
    chunk(choice, states_[choice].echo, tokens, Json(), out);
  }

  void chunk(size_t choice, const std::string& text, std::span<const TokenInfo> tokens, Json finish,
             std::string& out) {
    Json body = head_.object("text_completion");
    Json logprobs;
    if (logprobs_ && !tokens.empty()) logprobs = lists_.of(tokens, states_[choice].offset);
    body["choices"] = Json::array({{{"index", choice},
                                    {"text", text},
                                    {"logprobs", std::move(logprobs)},
                                    {"finish_reason", std::move(finish)}}});
    if (options_.include_usage) body["usage"] = Json();
    append_event(out, dump(body));
  }

  std::shared_ptr<ServedModel> model_;
  OpenAiHead head_;
  OpenAiOptions options_;
  bool logprobs_;
  bool echo_;
  LogprobLists lists_;
  std::vector<State> states_;
};

Parsed<Prompt> text_prompt(const ServedModel& model, const Json& text,
                           const std::optional<std::string>& suffix) {
  Prompt prompt{text.get<std::string>(), {}};
  QUERN_TRY(prompt.tokens, fill_in_prompt(model, prompt.text, suffix));
  return prompt;
}

Parsed<Prompt> token_prompt(const ServedModel& model, const Json& ids, const std::string& field) {
  Prompt prompt;
  QUERN_TRY(prompt.tokens, token_list(ids, field, model.tokenizer->size()));
  if (prompt.tokens.empty()) return bad_field(field, "must hold at least one token id");
  QUERN_TRY_VOID(check_length(model, prompt.tokens.size()));
  prompt.text = model.tokenizer->decode(prompt.tokens);
  return prompt;
}

Parsed<std::vector<Prompt>> read_prompts(const ServedModel& model, const Body& body) {
  const Json& given = *body.find("prompt");
  const auto suffix = body.string("suffix");
  std::vector<Prompt> prompts;
  if (given.is_string()) {
    QUERN_TRY(prompts.emplace_back(), text_prompt(model, given, suffix));
    return prompts;
  }
  if (!given.is_array() || given.empty())
    return bad_field("prompt",
                     fmt::format("must be a string, an array of strings, an array of token ids or an array "
                                 "of such arrays, got {}",
                                 given.is_array() ? "an empty array" : shown(given)));
  if (given[0].is_number()) {
    QUERN_TRY(prompts.emplace_back(), token_prompt(model, given, "prompt"));
  } else if (given.size() > kMaxPrompts) {
    return bad_field("prompt",
                     fmt::format("holds {} prompts, at most {} are allowed", given.size(), kMaxPrompts));
  } else {
    for (size_t i = 0; i < given.size(); ++i) {
      const std::string field = fmt::format("prompt[{}]", i);
      if (given[i].is_string()) {
        QUERN_TRY(prompts.emplace_back(), text_prompt(model, given[i], suffix));
      } else if (given[i].is_array()) {
        QUERN_TRY(prompts.emplace_back(), token_prompt(model, given[i], field));
      } else {
        return bad_field(field,
                         fmt::format("must be a string or an array of token ids, got {}", shown(given[i])));
      }
    }
  }
  if (suffix && !suffix->empty() && !given[0].is_string())
    return bad_field("suffix", "only goes with prompts that are text");
  return prompts;
}

}  // namespace

std::span<const FieldSpec> openai_completion_fields() {
  static const FieldSpec own[] = {
      {.name = "prompt",
       .about = "Text or token ids, one or several; ids are taken as they are.",
       .required = true,
       .schema = kPromptSchema},
      {.name = "suffix", .kind = Kind::string, .about = "What follows the gap: fill in the middle."},
      {.name = "echo", .kind = Kind::boolean, .about = "The prompt is part of the answer."},
      {.name = "logprobs",
       .kind = Kind::integer,
       .about = "Each token's log-probability and that many alternatives.",
       .least = 0,
       .most = 20},
      {.name = "best_of", .kind = Kind::integer, .about = "Only the same as n.", .least = 1, .most = 128}};
  static const auto fields = join_fields({own, openai_fields(), generation_fields()});
  return fields;
}

Parsed<Reply> openai_completion(App& app, const HttpRequest& http) {
  QUERN_TRY(const Body body, Body::parse(http.body, openai_completion_fields()));
  QUERN_TRY(const OpenAiOptions options, read_openai_options(body));
  if (const auto best_of = body.integer("best_of"); best_of && *best_of != options.n)
    return bad_field(
        "best_of", fmt::format("is not supported unless it equals n, got {} with n {}", *best_of, options.n));
  QUERN_TRY(auto model, find_model(app, body.string("model")));
  QUERN_TRY(Request request, read_request(app, *model, body, http));
  const bool echo = body.flag("echo", false);
  const auto logprobs = body.integer("logprobs");
  if (echo && body.string("suffix").value_or("") != "") return bad_field("echo", "does not go with suffix");
  request.top_logprobs = static_cast<int>(logprobs.value_or(-1));
  request.prompt_logprobs = echo && logprobs;
  QUERN_TRY(std::vector<Prompt> prompts, read_prompts(*model, body));
  QUERN_TRY_VOID(check_choices(app, static_cast<int64_t>(prompts.size()) * options.n,
                               prompts.size() > 1 ? "prompt" : "n"));
  std::vector<Request> requests;
  for (const Prompt& prompt : prompts) {
    request.prompt = prompt.tokens;
    repeat_request(requests, request, options.n);
  }
  if (!options.stream) QUERN_TRY_VOID(check_logprobs(app, *model, requests));
  auto shape =
      std::make_unique<CompletionShape>(model, options, logprobs.has_value(), echo, std::move(prompts));
  return Answer::begin(std::move(model), std::move(requests), std::move(shape), options.stream,
                       app.limits.stream_bytes);
}

}  // namespace quern
