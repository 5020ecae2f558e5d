// The fields that say how to generate, shared by the native and the OpenAI endpoints.
#pragma once

#include <span>
#include <vector>

#include "http/app.h"
#include "http/json.h"

namespace quern {

/// model, temperature, top_p … logit_bias: what fill_request reads.
std::span<const FieldSpec> generation_fields();
/// Joins tables; later ones do not repeat a name of earlier ones.
std::vector<FieldSpec> join_fields(std::initializer_list<std::span<const FieldSpec>> tables);

/// Sampling, length and stop strings: the request's, else what LLM_DEFAULT_… sets, else what the model's file
/// recommends, else the server's defaults. Lengths above LLM_MAX_TOKENS_LIMIT are cut to it.
Parsed<Request> read_request(App& app, const ServedModel& model, const Body& body, const HttpRequest& http);

/// 400 with both numbers when a prompt does not leave room for a token.
Parsed<void> check_length(const ServedModel& model, size_t prompt_tokens);
/// The same from the text alone: refuses, without working on it, what cannot possibly fit.
Parsed<void> check_text(const ServedModel& model, std::string_view text);
/// Encodes a text that a client sent, after check_text; the tokens fit the context.
Parsed<std::vector<int32_t>> encode_prompt(const ServedModel& model, std::string_view text,
                                           const EncodeOptions& options);

/// Copies `request` n times; each copy's seed is its own, and the same for the same seed.
void repeat_request(std::vector<Request>& out, const Request& request, int64_t n);
/// n choices at once must fit the running slots and the queue.
Parsed<void> check_choices(App& app, int64_t choices, std::string_view field);
/// 400 when the log-probabilities of an answer, which is kept until it is whole, may take more than large
/// answers have.
Parsed<void> check_logprobs(const App& app, const ServedModel& model, std::span<const Request> requests);

}  // namespace quern
