#include "http/openai.h"

#include <chrono>
#include <cmath>
#include <random>

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

constexpr std::string_view kStreamOptionsSchema =
    R"({"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}})";

std::string random_id(std::string_view prefix) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{}{:016x}{:08x}", prefix, random(), static_cast<uint32_t>(random()));
}

}  // namespace

std::span<const FieldSpec> openai_fields() {
  static const FieldSpec fields[] = {
      {.name = "stream", .kind = Kind::boolean, .about = "Answer as server-sent events."},
      {.name = "stream_options",
       .kind = Kind::object,
       .about = "Only with stream.",
       .schema = kStreamOptionsSchema},
      {.name = "n", .kind = Kind::integer, .about = "How many answers.", .least = 1, .most = 128},
      {.name = "return_tokens_as_token_ids",
       .kind = Kind::boolean,
       .about = "Tokens in log-probabilities as \"token_id:17\"."}};
  return fields;
}

Parsed<OpenAiOptions> read_openai_options(const Body& body) {
  OpenAiOptions options;
  options.stream = body.flag("stream", false);
  options.n = body.integer("n").value_or(1);
  options.tokens_as_ids = body.flag("return_tokens_as_token_ids", false);
  const Json* more = body.find("stream_options");
  if (more == nullptr) return options;
  if (!options.stream) return bad_field("stream_options", "only allowed when stream is true");
  const auto usage = more->find("include_usage");
  if (usage != more->end() && !usage->is_null()) {
    if (!usage->is_boolean())
      return bad_field("stream_options.include_usage",
                       fmt::format("must be true or false, got {}", shown(*usage)));
    options.include_usage = usage->get<bool>();
  }
  return options;
}

OpenAiHead::OpenAiHead(std::string_view prefix, const ServedModel& served)
    : id(random_id(prefix)),
      created(std::chrono::duration_cast<std::chrono::seconds>(
                  std::chrono::system_clock::now().time_since_epoch())
                  .count()),
      model(served.id) {}

Json OpenAiHead::object(std::string_view kind) const {
  return {{"id", id},
          {"object", kind},
          {"created", created},
          {"model", model},
          {"system_fingerprint", "quern-0.1.0"}};
}

std::string_view openai_finish(FinishReason reason) {
  return reason == FinishReason::length ? "length" : "stop";
}

Json openai_usage(std::span<const Choice> choices, int64_t n) {
  int64_t prompt = 0, cached = 0, generated = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    generated += choices[i].generated;
    if (i % static_cast<size_t>(n) != 0 || !choices[i].finish) continue;
    prompt += choices[i].finish->prompt_tokens;
    cached += choices[i].finish->cached_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", generated},
          {"total_tokens", prompt + generated},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

double finite_logprob(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

std::string token_text(const Tokenizer& tokenizer, int32_t token, bool as_id) {
  return as_id ? fmt::format("token_id:{}", token) : tokenizer.piece(token, true);
}

}  // namespace quern
