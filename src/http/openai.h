// What OpenAI's two endpoints share.
#pragma once

#include "http/app.h"
#include "http/json.h"

namespace quern {

/// n, stream, stream_options … of both endpoints.
std::span<const FieldSpec> openai_fields();

struct OpenAiOptions {
  bool stream = false;
  bool include_usage = false;
  int64_t n = 1;
  bool tokens_as_ids = false;  // "token_id:17" instead of the token's text
};
/// Checks what goes together: stream_options only with stream.
Parsed<OpenAiOptions> read_openai_options(const Body& body);

/// What every object of one answer carries.
struct OpenAiHead {
  std::string id;
  int64_t created = 0;
  std::string model;

  OpenAiHead(std::string_view prefix, const ServedModel& model);
  /// {id, object, created, model, system_fingerprint}
  Json object(std::string_view kind) const;
};

/// "stop" or "length".
std::string_view openai_finish(FinishReason reason);
/// Choices come in groups of n that share a prompt, which counts once.
Json openai_usage(std::span<const Choice> choices, int64_t n);
/// Finite, as JSON needs it: an impossible token is −9999, as OpenAI writes it.
double finite_logprob(float logprob);
/// A token's text for a list of log-probabilities.
std::string token_text(const Tokenizer& tokenizer, int32_t token, bool as_id);

}  // namespace quern
