#include "sampling/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "sampling/fast_exp.h"
#include "sampling/random.h"

namespace quern {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

/// The highest finite logit's index; −1: none. The first of equals.
int64_t argmax(std::span<const float> logits) {
  int64_t best = -1;
  float highest = kImpossible;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > highest && logits[i] <= std::numeric_limits<float>::max()) {  // false for NaN
      highest = logits[i];
      best = static_cast<int64_t>(i);
    }
  }
  return best;
}

/// Turns logits into weights e^((logit − highest) / temperature), in place; impossible ones weigh nothing.
void to_weights(std::span<float> row, float highest, float temperature) {
  for (float& value : row) value = exp_of_negative((value - highest) / temperature);
}

/// In double, over four interleaved parts: a fixed order, and faster than one chain of additions.
double sum(std::span<const float> values) {
  double part[4] = {0, 0, 0, 0};
  size_t i = 0;
  for (; i + 4 <= values.size(); i += 4)
    for (size_t j = 0; j < 4; ++j) part[j] += static_cast<double>(values[i + j]);
  for (; i < values.size(); ++i) part[0] += static_cast<double>(values[i]);
  return (part[0] + part[1]) + (part[2] + part[3]);
}

bool possible(float logit) { return std::abs(logit) <= std::numeric_limits<float>::max(); }

}  // namespace

Sampler::Sampler(SamplingParams params, std::span<const int32_t> prompt, int32_t vocab)
    : params_(std::move(params)), seed_(params_.seed ? *params_.seed : random_seed()) {
  if (params_.repetition_penalty != 1.0f) {
    seen_.resize(static_cast<size_t>(vocab));
    for (const int32_t token : prompt) note_seen(token);
  }
}

bool Sampler::better(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

void Sampler::note_seen(int32_t token) {
  if (token < 0 || static_cast<size_t>(token) >= seen_.size()) return;
  if (std::exchange(seen_[static_cast<size_t>(token)], uint8_t{1}) == 0) seen_tokens_.push_back(token);
}

Sampled Sampler::sample(std::span<float> logits, int top_logprobs) {
  if (top_logprobs >= 0) raw_.assign(logits.begin(), logits.end());
  penalize(logits);
  bias(logits);
  const int32_t token = choose(logits);
  ++drawn_;
  if (!seen_.empty()) note_seen(token);
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) ++counts_[token];
  if (top_logprobs >= 0) return logprobs_of(raw_, token, top_logprobs);
  return {.token = token};
}

void Sampler::penalize(std::span<float> logits) const {
  for (const int32_t token : seen_tokens_) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
  }
  for (const auto& [token, times] : counts_)
    logits[static_cast<size_t>(token)] -=
        params_.presence_penalty + params_.frequency_penalty * static_cast<float>(times);
}

void Sampler::bias(std::span<float> logits) const {
  std::vector<std::pair<int32_t, float>> only;  // what is left when some tokens are to be alone
  for (const auto& [token, value] : params_.logit_bias) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) continue;
    float& logit = logits[static_cast<size_t>(token)];
    logit = value <= -100.0f ? kImpossible : logit + value;
    if (value >= 100.0f) only.emplace_back(token, logit);
  }
  if (only.empty()) return;
  std::ranges::fill(logits, kImpossible);
  for (const auto& [token, logit] : only) logits[static_cast<size_t>(token)] = logit;
}

int32_t Sampler::choose(std::span<float> logits) {
  const int64_t best = argmax(logits);
  if (best < 0) return 0;
  if (!(params_.temperature > 0)) return static_cast<int32_t>(best);

  to_weights(logits, logits[static_cast<size_t>(best)], params_.temperature);
  const std::span<const float> weights = logits;
  const bool limits_k = this->limits_k(weights.size());
  if (!limits_k && !(params_.top_p < 1.0f) && !(params_.min_p > 0)) {
    double left = uniform(seed_, drawn_) * sum(weights);
    for (size_t i = 0; i < weights.size(); ++i) {
      left -= static_cast<double>(weights[i]);
      if (left < 0) return static_cast<int32_t>(i);
    }
    return static_cast<int32_t>(best);  // rounding ate the last part
  }

  const double total =
      limits_k ? gather_top_k(weights, static_cast<size_t>(params_.top_k)) : gather(weights, sum(weights));
  return draw(total, static_cast<int32_t>(best));
}

bool Sampler::limits_k(size_t tokens) const {
  return params_.top_k > 0 && static_cast<size_t>(params_.top_k) < tokens;
}

/// One of candidates_, which are all that top_p and min_p may keep of weights that sum to `total`.
int32_t Sampler::draw(double total, int32_t best) {
  if (params_.top_p < 1.0f) keep_top_p(total);
  // The most likely token has weight 1 and is never dropped.
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < std::min(params_.min_p, 1.0f); });
  // Few go in their order, so that it does not matter where they come from.
  if (candidates_.size() <= BestOfRow::kMost) std::ranges::sort(candidates_, better);
  double left = 0;
  for (const Candidate& candidate : candidates_) left += static_cast<double>(candidate.weight);
  left *= uniform(seed_, drawn_);
  for (const Candidate& candidate : candidates_) {
    left -= static_cast<double>(candidate.weight);
    if (left < 0) return candidate.token;
  }
  return best;
}

float Sampler::best_scale() const {
  const bool changes_logits = params_.repetition_penalty != 1.0f || params_.presence_penalty != 0 ||
                              params_.frequency_penalty != 0 || !params_.logit_bias.empty();
  if (changes_logits || params_.top_k > BestOfRow::kMost) return 0;
  if (!(params_.temperature > 0)) return 1;
  const bool limits = params_.top_k > 0 || params_.top_p < 1.0f || params_.min_p > 0;
  return limits ? 1 / params_.temperature : 0;
}

bool Sampler::enough(const BestOfRow& best) const {
  if (best.count == 0 || best_scale() == 0) return false;
  // All there are, or all that top_k leaves.
  if (!(params_.temperature > 0) || best.count < BestOfRow::kMost || params_.top_k > 0) return true;
  const auto weight = [&](int i) {
    return exp_of_negative((best.value[i] - best.value[0]) / params_.temperature);
  };
  if (weight(best.count - 1) < std::min(params_.min_p, 1.0f)) return true;
  if (!(params_.top_p < 1.0f)) return false;
  double reached = 0;
  for (int i = 0; i < best.count; ++i) reached += static_cast<double>(weight(i));
  // A little more than that, because `total` is rounded.
  return reached >= static_cast<double>(params_.top_p) * static_cast<double>(best.total) * 1.00001;
}

Sampled Sampler::sample(const BestOfRow& best) {
  int32_t token = best.column[0];
  if (params_.temperature > 0) {
    candidates_.clear();
    double sum = 0;
    for (int i = 0; i < best.count && (params_.top_k == 0 || i < params_.top_k); ++i) {
      const float weight = exp_of_negative((best.value[i] - best.value[0]) / params_.temperature);
      if (weight > 0) candidates_.push_back({weight, best.column[i]});
      sum += static_cast<double>(weight);
    }
    const bool whole = params_.top_k > 0 || best.count < BestOfRow::kMost;
    token = draw(whole ? sum : static_cast<double>(best.total), token);
  }
  ++drawn_;
  return {.token = token};
}

/// Fills candidates_ with the k best, best first; returns their total weight.
double Sampler::gather_top_k(std::span<const float> weights, size_t k) {
  candidates_.clear();
  for (size_t i = 0; i < weights.size(); ++i) {
    const Candidate candidate{weights[i], static_cast<int32_t>(i)};
    if (candidate.weight == 0) continue;
    if (candidates_.size() == k) {  // a heap whose front is the worst; of equals the first come stays
      if (candidate.weight <= candidates_.front().weight) continue;
      std::ranges::pop_heap(candidates_, better);
      candidates_.pop_back();
    }
    candidates_.push_back(candidate);
    std::ranges::push_heap(candidates_, better);
  }
  std::ranges::sort_heap(candidates_, better);
  double total = 0;
  for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  return total;
}

/// Fills candidates_ with all tokens that top_p and min_p may keep, in no order; returns `total`.
double Sampler::gather(std::span<const float> weights, double total) {
  // All tokens below (1 − top_p) · total / vocab together weigh less than what top_p leaves out. Half of
  // that, to be safe from rounding.
  const double share =
      (1.0 - static_cast<double>(params_.top_p)) * total / static_cast<double>(weights.size());
  const float least = std::max({params_.min_p, static_cast<float>(share) * 0.5f, 0.0f});
  candidates_.clear();
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i] > 0 && weights[i] >= std::min(least, 1.0f))
      candidates_.push_back({weights[i], static_cast<int32_t>(i)});
  return total;
}

/// Cuts candidates_ to the fewest best whose weights reach top_p · total, by halving where the cut may lie:
/// linear in their number, where sorting a flat distribution would take as long as a step of a small model.
void Sampler::keep_top_p(double total) {
  const auto at = [&](size_t i) { return candidates_.begin() + static_cast<ptrdiff_t>(i); };
  const double enough = static_cast<double>(params_.top_p) * total;
  double reached = 0;  // by the first `low`, which stay; none stays from `high` on
  size_t low = 0, high = candidates_.size();
  while (high - low > 32) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(at(low), at(middle), at(high), better);
    double half = 0;
    for (size_t i = low; i < middle; ++i) half += static_cast<double>(candidates_[i].weight);
    if (reached + half >= enough) {
      high = middle;
    } else {
      reached += half;
      low = middle;
    }
  }
  std::sort(at(low), at(high), better);
  while (low < high && (low == 0 || reached < enough))
    reached += static_cast<double>(candidates_[low++].weight);
  candidates_.resize(low);
}

Sampled logprobs_of(std::span<const float> logits, int32_t token, int top) {
  Sampled result{.token = token, .logprob = kImpossibleLogprob};
  const int64_t best = argmax(logits);
  if (best < 0) return result;
  const float highest = logits[static_cast<size_t>(best)];
  double total = 0;
  std::array<float, 2048> weights;
  for (size_t i = 0; i < logits.size(); i += weights.size()) {
    const auto part = std::span(weights).first(std::min(weights.size(), logits.size() - i));
    std::ranges::copy(logits.subspan(i, part.size()), part.begin());
    to_weights(part, highest, 1.0f);
    total += sum(part);
  }
  const double log_total = static_cast<double>(highest) + std::log(total);
  const auto logprob = [&](size_t i) {
    return static_cast<float>(
        std::max(static_cast<double>(logits[i]) - log_total, double{kImpossibleLogprob}));
  };
  if (token >= 0 && static_cast<size_t>(token) < logits.size() &&
      possible(logits[static_cast<size_t>(token)]))
    result.logprob = logprob(static_cast<size_t>(token));

  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::vector<int32_t> heap;  // its front is the worst; of equals the first come stays
  const auto most = static_cast<size_t>(std::max(top, 0));
  for (size_t i = 0; most > 0 && i < logits.size(); ++i) {
    if (!possible(logits[i])) continue;
    if (heap.size() == most) {
      if (logits[i] <= logits[static_cast<size_t>(heap.front())]) continue;
      std::ranges::pop_heap(heap, better);
      heap.pop_back();
    }
    heap.push_back(static_cast<int32_t>(i));
    std::ranges::push_heap(heap, better);
  }
  std::ranges::sort_heap(heap, better);
  for (const int32_t id : heap) result.top.push_back({id, logprob(static_cast<size_t>(id))});
  return result;
}

}  // namespace quern
