// Logits → token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace quern {

struct SamplingParams {
  float temperature = 0.7f;         // 0: greedy, exact
  float top_p = 0.9f;               // 1: off
  int32_t top_k = 0;                // 0: off
  float min_p = 0.0f;               // 0: off
  float repetition_penalty = 1.0f;  // 1: off; over prompt and answer
  float presence_penalty = 0.0f;    // over the answer, as OpenAI defines them
  float frequency_penalty = 0.0f;
  std::optional<uint64_t> seed;  // empty: random
  std::vector<std::pair<int32_t, float>> logit_bias;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct Sampled {
  int32_t token = 0;
  /// Of the model's own distribution (before penalties, bias and temperature): natural logarithm. Filled only
  /// when asked for.
  float logprob = 0;
  std::vector<TokenLogprob> top;  // most likely first
};

/// One request's sampler. Chain: penalties, logit_bias, temperature, top_k, top_p, min_p, then a draw. The
/// draw for the i-th token of an answer depends on the seed, i and the logits alone, so a request that is put
/// back and continued draws the same.
class Sampler {
 public:
  Sampler(SamplingParams params, std::span<const int32_t> prompt, int32_t vocab);

  /// `logits` holds vocab values and is used as scratch. `top_logprobs`: −1 none wanted, 0…20. Non-finite
  /// logits are treated as impossible tokens; when all are, the result is token 0.
  Sampled sample(std::span<float> logits, int top_logprobs = -1);

  /// The seed in use (drawn at random when the request had none).
  uint64_t seed() const { return seed_; }

 private:
  SamplingParams params_;
  uint64_t seed_ = 0;
  uint64_t drawn_ = 0;         // answer tokens so far
  std::vector<uint8_t> seen_;  // token occurs in prompt or answer; empty when no penalty needs it
  std::vector<std::pair<int32_t, int32_t>> counts_;  // answer token → times
  std::vector<std::pair<float, int32_t>> scratch_;
};

/// log softmax(logits)[token], and the `top` most likely. For echo and logprobs of given tokens.
Sampled logprobs_of(std::span<const float> logits, int32_t token, int top);

}  // namespace quern
