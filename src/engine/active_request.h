// One request inside an engine: its sampler, its text and its clock. Knows nothing of threads and of other
// requests.
#pragma once

#include <atomic>
#include <optional>
#include <span>
#include <vector>

#include "engine/answer_text.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "sampling/sampler.h"
#include "text/tokenizer.h"

namespace quern {

class ActiveRequest {
 public:
  /// `vocab`: how many of a row's logits are tokens. Times are seconds on one clock.
  ActiveRequest(Request request, EventSink sink, const Tokenizer& tokenizer, int32_t vocab, double now);

  const Request& request() const { return request_; }
  uint64_t ticket = 0;  // set once, when the request is queued
  /// Set from any thread: no event is delivered from now on.
  std::atomic<bool> cancelled = false;

  // ---- The engine's thread only.
  void admitted(double now, EngineObserver* observer);
  /// Whether the logits at prompt position `position` are wanted, for the log-probability of the next one.
  bool wants_logits_at(int64_t position) const;
  void prompt_logits(int64_t position, std::span<const float> logits);
  /// What a step found out: the logits after the last token and after each of the guesses that were computed
  /// behind it.
  struct Computed {
    std::span<float> logits;           // 1 + guesses rows; empty when none are wanted
    size_t stride = 0;                 // from row to row
    std::span<const BestOfRow> best;   // of the rows; a count that is not 0 takes the logits' place
    std::span<const int32_t> guesses;  // tokens
    int64_t cached = 0;                // prompt tokens that were in the prefix cache
    double now = 0;
  };
  /// Samples the next token, and the one after each guess that it turns out to equal: every token comes from
  /// its own position's logits and that position's own random number, so guesses change no answer. Returns
  /// the tokens that the sequence goes on with (not the one that ends it), valid until the next call.
  std::span<const int32_t> next_tokens(const Computed& computed, int64_t context, EngineObserver* observer);
  bool samples() const { return request_.max_tokens > 0; }
  /// See Sampler; 0 where log-probabilities are wanted.
  float best_scale() const { return request_.top_logprobs >= 0 ? 0 : sampler_->best_scale(); }
  bool enough(const BestOfRow& best) const { return sampler_->enough(best); }
  /// Ends the request with an error, in place of whatever was still to be delivered.
  void end_with(Error error, double now, EngineObserver* observer);
  void end_cancelled(double now, EngineObserver* observer);

  bool ended() const { return ended_; }
  /// The prompt is done.
  bool answering() const { return answering_; }
  /// Tokens of the answer, the end-of-turn token not counted.
  int32_t generated() const { return generated_; }
  /// Hands all events since the last call to the sink. False when the sink threw: the request is of no use
  /// then.
  bool deliver();

 private:
  void first_result(int64_t cached, double now, EngineObserver* observer);
  std::optional<int32_t> next_token(const Sampled& sampled, int64_t context, double now,
                                    EngineObserver* observer);
  TokenInfo describe(int32_t token) const;
  void end(FinishReason reason, double now, EngineObserver* observer);

  const Request request_;
  const EventSink sink_;
  const Tokenizer& tokenizer_;
  const int32_t vocab_;
  const double submitted_;
  double admitted_ = 0, first_ = 0, last_ = 0;
  std::optional<Sampler> sampler_;  // made when the request starts: a queued one costs little
  AnswerText text_;
  PromptInfo prompt_info_;
  int64_t cached_ = 0;
  int32_t generated_ = 0;
  bool answering_ = false;
  bool ended_ = false;
  std::vector<Event> events_;
  std::vector<int32_t> next_;  // of this step
};

}  // namespace quern
