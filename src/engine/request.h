// What a client asks of an engine and what it gets back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/result.h"
#include "sampling/sampler.h"

namespace quern {

struct Request {
  std::string id;               // for logs; need not be unique
  std::vector<int32_t> prompt;  // not empty; shorter than the context
  SamplingParams sampling;
  int32_t max_tokens = 512;       // ≥ 0; 0 answers with the prompt's log-probabilities alone
  std::vector<std::string> stop;  // matched in the answer's text, also across tokens; never emitted
  bool ignore_eos = false;
  int top_logprobs = -1;         // −1: none; 0…20: the token's own and that many alternatives
  bool prompt_logprobs = false;  // for echo
  bool special_text = false;     // emit control tokens' text too
  /// Shared by the requests that make one answer, false at first, then the engine's: once one of them has
  /// begun, the others do not time out in the queue. May be null.
  std::shared_ptr<bool> answer_begun;
};

/// One token of the answer (or of the prompt, for echo).
struct TokenInfo {
  int32_t token = 0;
  std::string bytes;         // may be part of a UTF-8 character
  bool has_logprob = false;  // the first prompt token has none
  float logprob = 0;
  std::vector<TokenLogprob> top;
};

enum class FinishReason { length, stop, eos, cancelled };

/// Processed prompt, once, before the first Delta; only when prompt_logprobs was asked for.
struct PromptInfo {
  std::vector<TokenInfo> tokens;
};
/// New text: whole UTF-8 characters, no part of a stop string; may be empty when only `tokens` advance. The
/// concatenated texts are the answer. `tokens` (only with top_logprobs ≥ 0) are those whose text ends here.
struct Delta {
  std::string text;
  std::vector<TokenInfo> tokens;
  int32_t count = 0; /* tokens generated since the last one */
};
struct Finish {
  FinishReason reason = FinishReason::length;
  std::string stop;  // the stop string that matched
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;      // of the prompt, found in the prefix cache
  int32_t completion_tokens = 0;  // the end-of-turn token not counted
  double queue_seconds = 0, prefill_seconds = 0, decode_seconds = 0;
};

/// Exactly one Finish or one Error ends a request; nothing follows it.
using Event = std::variant<PromptInfo, Delta, Finish, Error>;
/// Called on the engine's thread; must not block and must not call the engine.
using EventSink = std::function<void(Event)>;

}  // namespace quern
