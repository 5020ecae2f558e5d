// Logits → token.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/best_of_row.h"

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
/// back and continued draws the same. So does one whose tokens are guessed ahead: each is drawn as if nothing
/// had been guessed, and a guess that equals the draw saved a step. Same seed, same logits, same text.
///  - repetition_penalty divides positive logits and multiplies negative ones, of tokens in prompt or answer.
///  - presence_penalty is subtracted once, frequency_penalty once per occurrence, of tokens in the answer.
///  - logit_bias is added; as OpenAI has it, ≤ −100 bans the token and ≥ 100 leaves only such tokens. Ids
///    outside the vocabulary are ignored.
///  - top_k keeps the k most likely; top_p the fewest most likely of these whose probabilities sum to at
///  least
///    top_p; min_p those with at least min_p times the highest probability. Ties go to the lowest id.
class Sampler {
 public:
  Sampler(SamplingParams params, std::span<const int32_t> prompt, int32_t vocab);

  /// `logits` holds vocab values and is used as scratch. `top_logprobs`: −1 none wanted, 0…20. Non-finite
  /// logits are treated as impossible tokens; when all are, the result is token 0.
  Sampled sample(std::span<float> logits, int top_logprobs = -1);

  // Where a device finds the best of a row itself:

  /// What BestOfRow's total should be scaled by; 0: with these parameters no row's best are enough.
  float best_scale() const;
  /// Whether `sample` of the whole row can only come to one of these.
  bool enough(const BestOfRow& best) const;
  /// As `sample` of a whole row whose best these are, and are enough.
  Sampled sample(const BestOfRow& best);

  /// The seed in use (drawn at random when the request had none).
  uint64_t seed() const { return seed_; }

 private:
  struct Candidate {
    float weight;  // probability, relative to the most likely token's
    int32_t token;
  };
  static bool better(const Candidate& a, const Candidate& b);
  void note_seen(int32_t token);
  void penalize(std::span<float> logits) const;
  void bias(std::span<float> logits) const;
  int32_t choose(std::span<float> logits);
  int32_t draw(double total, int32_t best);
  bool limits_k(size_t tokens) const;
  double gather_top_k(std::span<const float> weights, size_t k);
  double gather(std::span<const float> weights, double total);
  void keep_top_p(double total);

  SamplingParams params_;
  uint64_t seed_ = 0;
  uint64_t drawn_ = 0;                           // answer tokens so far
  std::vector<uint8_t> seen_;                    // by token: in prompt or answer; empty without that penalty
  std::vector<int32_t> seen_tokens_;             // the same as a list
  std::unordered_map<int32_t, int32_t> counts_;  // answer token → times; empty without those penalties
  std::vector<Candidate> candidates_;            // scratch
  std::vector<float> raw_;                       // scratch
};

/// The logprob of a token that cannot be: JSON has no infinity, and OpenAI answers with this number.
inline constexpr float kImpossibleLogprob = -9999.0f;

/// log softmax(logits)[token], and the `top` most likely (fewer when fewer are possible), ties by lowest id.
/// For echo and logprobs of given tokens. Sums in double.
Sampled logprobs_of(std::span<const float> logits, int32_t token, int top);

}  // namespace quern
