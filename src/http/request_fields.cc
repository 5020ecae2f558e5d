#include "http/request_fields.h"

#include <algorithm>
#include <charconv>

#include "sampling/defaults.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

constexpr size_t kMaxStops = 16;
/// Each choice of an answer keeps several times this for each stop string.
constexpr size_t kLongestStop = 1024;  // bytes
constexpr size_t kMaxBiases = 1024;
constexpr int kDefaultMaxTokens = 512;
/// What one log-probability of an answer takes while its JSON is made, roughly.
constexpr uint64_t kLogprobBytes = 512;
/// A text this long may be too long at a glance; below it, counting tokens is cheap enough.
constexpr size_t kGlance = 1 << 20;

constexpr std::string_view kStopSchema =
    R"({"type": ["string", "array", "null"], "items": {"type": "string", "maxLength": 1024},
        "maxLength": 1024, "maxItems": 16})";
constexpr std::string_view kBiasSchema =
    R"({"type": ["object", "null"], "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}})";

const std::vector<FieldSpec>& table() {
  static const std::vector<FieldSpec> fields = {
      {.name = "model", .kind = Kind::string, .about = "Which model; the default one when absent."},
      {.name = "temperature",
       .kind = Kind::number,
       .about = "0: greedy, always the likeliest token.",
       .least = 0,
       .most = 2},
      {.name = "top_p",
       .kind = Kind::number,
       .about = "Nucleus sampling; 1: off.",
       .least = 0,
       .most = 1,
       .above_least = true},
      {.name = "top_k",
       .kind = Kind::integer,
       .about = "Only the k likeliest tokens; 0 or -1: off.",
       .least = -1,
       .most = 2147483647},
      {.name = "min_p",
       .kind = Kind::number,
       .about = "Only tokens at least this likely, relative to the likeliest.",
       .least = 0,
       .most = 1},
      {.name = "repetition_penalty",
       .kind = Kind::number,
       .about = "Over prompt and answer; 1: off.",
       .least = 0,
       .most = 10,
       .above_least = true},
      {.name = "presence_penalty",
       .kind = Kind::number,
       .about = "Subtracted once from tokens of the answer.",
       .least = -2,
       .most = 2},
      {.name = "frequency_penalty",
       .kind = Kind::number,
       .about = "Subtracted from tokens of the answer as often as they occur.",
       .least = -2,
       .most = 2},
      {.name = "seed", .kind = Kind::integer, .about = "The same seed gives the same text."},
      {.name = "max_tokens",
       .kind = Kind::integer,
       .about = "Longest answer; cut to LLM_MAX_TOKENS_LIMIT.",
       .least = 0,
       .most = 2147483647},
      {.name = "max_completion_tokens",
       .kind = Kind::integer,
       .about = "Wins over max_tokens.",
       .least = 0,
       .most = 2147483647},
      {.name = "stop",
       .about = "Texts of up to 1024 bytes that end the answer; never part of it.",
       .schema = kStopSchema},
      {.name = "logit_bias",
       .kind = Kind::object,
       .about = "Token id → -100 … 100, added to its logit.",
       .schema = kBiasSchema},
      {.name = "ignore_eos", .kind = Kind::boolean, .about = "Go on after the model's end-of-text token."},
      {.name = "skip_special_tokens",
       .kind = Kind::boolean,
       .about = "false: control tokens are part of the text. Default true."},
  };
  return fields;
}

Parsed<std::vector<std::pair<int32_t, float>>> read_bias(const Body& body, int32_t vocab) {
  std::vector<std::pair<int32_t, float>> biases;
  const Json* map = body.find("logit_bias");
  if (map == nullptr) return biases;
  if (map->size() > kMaxBiases)
    return bad_field("logit_bias",
                     fmt::format("has {} entries, at most {} are allowed", map->size(), kMaxBiases));
  for (const auto& [key, value] : map->items()) {
    int32_t token = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0 || token >= vocab)
      return bad_field("logit_bias", fmt::format("keys must be token ids between 0 and {}, got {}", vocab - 1,
                                                 shown(Json(key))));
    if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100))
      return bad_field("logit_bias", fmt::format("values must be numbers between -100 and 100, got {} for {}",
                                                 shown(value), key));
    biases.emplace_back(token, value.get<float>());
  }
  return biases;
}

int32_t max_tokens(const Config& config, const ServedModel& model, const Body& body) {
  int64_t wanted = kDefaultMaxTokens;
  if (model.source) wanted = model_max_tokens(model.source->metadata()).value_or(kDefaultMaxTokens);
  if (config.default_max_tokens) wanted = *config.default_max_tokens;
  if (const auto given = body.integer("max_tokens")) wanted = *given;
  if (const auto given = body.integer("max_completion_tokens")) wanted = *given;
  return static_cast<int32_t>(std::min<int64_t>(wanted, config.max_tokens_limit));
}

size_t longest_token(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int32_t id = 0; id < tokenizer.size(); ++id) longest = std::max(longest, tokenizer.raw(id).size());
  return longest;
}

ApiError too_long(const ServedModel& model, size_t tokens, bool at_least) {
  const int64_t context = model.engine->context();
  return {ApiErrorKind::context_length,
          fmt::format("the prompt has {}{} tokens, but this model's context is {} tokens, prompt and answer "
                      "together: shorten the prompt",
                      at_least ? "at least " : "", tokens, context),
          "prompt"};
}

std::string describe_wait(const ModelStatus& status) {
  if (status.state != ModelState::downloading && status.state != ModelState::loading)
    return fmt::format("model {} waits for memory that other models use", status.id);
  const std::string_view what = status.state == ModelState::downloading ? "being downloaded" : "loading";
  if (status.bytes_total == 0) return fmt::format("model {} is {}", status.id, what);
  return fmt::format("model {} is {} ({} %)", status.id, what, status.bytes_done * 100 / status.bytes_total);
}

/// For Retry-After.
int seconds_to_wait(const ModelStatus& status) {
  return status.eta_s > 0 ? static_cast<int>(std::min(status.eta_s + 1, 600.0)) : 5;
}

}  // namespace

std::span<const FieldSpec> generation_fields() { return table(); }

std::vector<FieldSpec> join_fields(std::initializer_list<std::span<const FieldSpec>> tables) {
  std::vector<FieldSpec> all;
  for (const auto& fields : tables) {
    for (const FieldSpec& field : fields) {
      const bool known = std::any_of(all.begin(), all.end(),
                                     [&](const FieldSpec& other) { return other.name == field.name; });
      if (!known) all.push_back(field);
    }
  }
  return all;
}

Parsed<Request> read_request(App& app, const ServedModel& model, const Body& body, const HttpRequest& http) {
  Request request;
  request.id = http.id;
  SamplingParams& s = request.sampling;
  if (model.source) take_model_defaults(model.source->metadata(), s);
  if (app.config.default_temperature) s.temperature = *app.config.default_temperature;
  if (app.config.default_top_p) s.top_p = *app.config.default_top_p;
  const auto real = [&](std::string_view name, float& target) {
    if (const auto value = body.number(name)) target = static_cast<float>(*value);
  };
  real("temperature", s.temperature);
  real("top_p", s.top_p);
  real("min_p", s.min_p);
  real("repetition_penalty", s.repetition_penalty);
  real("presence_penalty", s.presence_penalty);
  real("frequency_penalty", s.frequency_penalty);
  if (const auto k = body.integer("top_k")) s.top_k = static_cast<int32_t>(std::max<int64_t>(*k, 0));
  if (const auto seed = body.integer("seed")) s.seed = static_cast<uint64_t>(*seed);
  QUERN_TRY(s.logit_bias, read_bias(body, model.tokenizer->size()));
  QUERN_TRY(request.stop, string_list(body, "stop", kMaxStops, kLongestStop));
  request.max_tokens = max_tokens(app.config, model, body);
  request.ignore_eos = body.flag("ignore_eos", false);
  request.special_text = !body.flag("skip_special_tokens", true);
  return request;
}

Parsed<void> check_length(const ServedModel& model, size_t prompt_tokens) {
  if (static_cast<int64_t>(prompt_tokens) >= model.engine->context())
    return fail(too_long(model, prompt_tokens, false));
  return {};
}

Parsed<void> check_text(const ServedModel& model, std::string_view text) {
  if (text.size() <= kGlance) return {};
  const size_t least = text.size() / longest_token(*model.tokenizer);
  if (static_cast<int64_t>(least) >= model.engine->context()) return fail(too_long(model, least, true));
  return {};
}

Parsed<std::vector<int32_t>> encode_prompt(const ServedModel& model, std::string_view text,
                                           const EncodeOptions& options) {
  QUERN_TRY_VOID(check_text(model, text));
  auto tokens = model.tokenizer->encode(text, options);
  QUERN_TRY_VOID(check_length(model, tokens.size()));
  return tokens;
}

void repeat_request(std::vector<Request>& out, const Request& request, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    out.push_back(request);
    // The first choice keeps the seed, so that n = 1 and choice 0 of n are the same text.
    if (request.sampling.seed)
      out.back().sampling.seed = *request.sampling.seed + static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u;
  }
}

Parsed<void> check_choices(App& app, int64_t choices, std::string_view field) {
  const int64_t room = int64_t{app.config.max_concurrent_requests} + app.config.max_queued_requests;
  if (choices > room)
    return bad_field(
        field, fmt::format("asks for {} answers at once, but this server takes {} (running and waiting)",
                           choices, room));
  return {};
}

Parsed<void> check_logprobs(const App& app, const ServedModel& model, std::span<const Request> requests) {
  uint64_t count = 0;
  for (const Request& request : requests) {
    if (request.top_logprobs < 0) continue;
    const int64_t prompt = std::ssize(request.prompt);
    const int64_t answer = std::min<int64_t>(request.max_tokens, model.engine->context() - prompt);
    count += static_cast<uint64_t>((request.prompt_logprobs ? prompt : 0) + answer) *
             static_cast<uint64_t>(1 + request.top_logprobs);
  }
  const uint64_t most = app.limits.all_body_bytes / kLogprobBytes;
  if (count > most)
    return bad_field("logprobs",
                     fmt::format("{} answers may have {} log-probabilities in all, at most {} are "
                                 "allowed: ask for fewer answers, tokens or alternatives, or stream",
                                 requests.size(), count, most));
  return {};
}

Parsed<std::shared_ptr<ServedModel>> find_model(App& app, const std::optional<std::string>& name) {
  const std::string id = name.value_or("");
  auto model = app.host.get(id);
  if (model && *model != nullptr) return *std::move(model);
  if (!model && model.error().code == ErrorCode::not_found)
    return fail(ApiError{ApiErrorKind::unknown_model, model.error().message, "model"});
  const auto status = app.host.status_of(id);
  if (!model) {
    const bool failed = status && status->state == ModelState::failed;
    return fail(ApiError{
        failed ? ApiErrorKind::model_load : ApiErrorKind::unavailable, model.error().message, {}, 5});
  }
  return fail(
      ApiError{ApiErrorKind::model_coming, describe_wait(*status), "model", seconds_to_wait(*status)});
}

}  // namespace quern
