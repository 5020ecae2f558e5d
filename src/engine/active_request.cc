#include "engine/active_request.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/log.h"

namespace quern {

ActiveRequest::ActiveRequest(Request request, EventSink sink, const Tokenizer& tokenizer, int32_t vocab,
                             double now)
    : request_(std::move(request)),
      sink_(std::move(sink)),
      tokenizer_(tokenizer),
      vocab_(vocab),
      submitted_(now),
      text_(request_.stop, request_.top_logprobs >= 0) {}

void ActiveRequest::admitted(double now, EngineObserver* observer) {
  admitted_ = now;
  sampler_.emplace(request_.sampling, request_.prompt, vocab_);
  if (request_.prompt_logprobs) prompt_info_.tokens.push_back(describe(request_.prompt.front()));
  if (observer != nullptr) observer->queued(now - submitted_);
}

TokenInfo ActiveRequest::describe(int32_t token) const {
  TokenInfo info{.token = token};
  // A model may have more rows of logits than its vocabulary has tokens; a prompt of ids may use them.
  if (token < tokenizer_.size()) info.bytes = tokenizer_.piece(token, request_.special_text);
  return info;
}

bool ActiveRequest::wants_logits_at(int64_t position) const {
  // Each once: a put-back request computes again what is known already.
  return request_.prompt_logprobs && !answering_ &&
         position + 1 >= static_cast<int64_t>(prompt_info_.tokens.size()) &&
         position + 1 < static_cast<int64_t>(request_.prompt.size());
}

void ActiveRequest::prompt_logits(int64_t position, std::span<const float> logits) {
  TokenInfo info = describe(request_.prompt[static_cast<size_t>(position) + 1]);
  Sampled logprobs = logprobs_of(logits, info.token, request_.top_logprobs);
  info.has_logprob = true;
  info.logprob = logprobs.logprob;
  info.top = std::move(logprobs.top);
  prompt_info_.tokens.push_back(std::move(info));
}

/// The prompt has been computed, for the first time.
void ActiveRequest::first_result(int64_t cached, double now, EngineObserver* observer) {
  answering_ = true;
  first_ = last_ = now;
  cached_ = cached;
  if (request_.prompt_logprobs) events_.emplace_back(std::exchange(prompt_info_, {}));
  if (observer != nullptr && samples()) observer->first_token(now - submitted_);
}

std::span<const int32_t> ActiveRequest::next_tokens(const Computed& computed, int64_t context,
                                                    EngineObserver* observer) {
  const double now = computed.now;
  next_.clear();
  const bool first = !answering_;
  if (first) first_result(computed.cached, now, observer);
  if (!samples()) {
    end(FinishReason::length, now, observer);
    return next_;
  }
  size_t sampled = 0;
  for (bool right = true; right && !ended_; ++sampled) {
    const BestOfRow& best = computed.best[sampled];
    const auto row = computed.logits.subspan(sampled * computed.stride).first(static_cast<size_t>(vocab_));
    const auto token =
        next_token(best.count > 0 ? sampler_->sample(best) : sampler_->sample(row, request_.top_logprobs),
                   context, now, observer);
    if (token) next_.push_back(*token);
    right = token && sampled < computed.guesses.size() && *token == computed.guesses[sampled];
  }
  // Tokens that came in one step share its time.
  const double each = (now - std::exchange(last_, now)) / static_cast<double>(sampled);
  for (size_t i = first ? 1 : 0; observer != nullptr && i < sampled; ++i) observer->output_token(each);
  return next_;
}

/// The next token; empty when the request has ended, perhaps with an end-of-turn token.
std::optional<int32_t> ActiveRequest::next_token(const Sampled& sampled, int64_t context, double now,
                                                 EngineObserver* observer) {
  if (!request_.ignore_eos && tokenizer_.is_eog(sampled.token)) {
    end(FinishReason::eos, now, observer);
    return std::nullopt;
  }
  ++generated_;
  TokenInfo info = describe(sampled.token);
  if (request_.top_logprobs >= 0) {
    info.has_logprob = true;
    info.logprob = sampled.logprob;
    info.top = sampled.top;
  }
  if (text_.push(std::move(info))) {
    end(FinishReason::stop, now, observer);
    return std::nullopt;
  }
  const int64_t length = static_cast<int64_t>(request_.prompt.size()) + generated_;
  if (generated_ >= request_.max_tokens || length >= context) {
    end(FinishReason::length, now, observer);
    return std::nullopt;
  }
  if (auto delta = text_.take()) events_.emplace_back(*std::move(delta));
  return sampled.token;
}

void ActiveRequest::end(FinishReason reason, double now, EngineObserver* observer) {
  text_.finish();
  if (auto delta = text_.take()) events_.emplace_back(*std::move(delta));
  Finish finish{.reason = reason,
                .prompt_tokens = static_cast<int32_t>(request_.prompt.size()),
                .cached_tokens = static_cast<int32_t>(cached_),
                .completion_tokens = generated_,
                .queue_seconds = admitted_ - submitted_,
                .prefill_seconds = first_ - admitted_,
                .decode_seconds = now - first_};
  if (const std::string* stop = text_.stop()) {  // held back until the end, it was a stop string after all
    finish.reason = FinishReason::stop;
    finish.stop = *stop;
  }
  if (observer != nullptr) observer->finished(now - submitted_, finish.reason);
  events_.emplace_back(std::move(finish));
  ended_ = true;
}

void ActiveRequest::end_with(Error error, double now, EngineObserver* observer) {
  if (observer != nullptr) {
    if (!sampler_) observer->queued(now - submitted_);  // it never began: all its time was waiting
    observer->failed(now - submitted_);
  }
  events_.clear();
  events_.emplace_back(std::move(error));
  ended_ = true;
}

void ActiveRequest::end_cancelled(double now, EngineObserver* observer) {
  events_.clear();
  if (!std::exchange(ended_, true) && observer != nullptr)
    observer->finished(now - submitted_, FinishReason::cancelled);
}

bool ActiveRequest::deliver() {
  for (Event& event : std::exchange(events_, {})) {
    if (cancelled.load(std::memory_order_acquire)) return true;
    try {
      sink_(std::move(event));
    } catch (const std::exception& error) {
      log::warn("a request's receiver failed; the request is cancelled",
                {{"request", request_.id}, {"error", error.what()}});
      return false;
    } catch (...) {
      log::warn("a request's receiver failed; the request is cancelled", {{"request", request_.id}});
      return false;
    }
  }
  return true;
}

}  // namespace quern
