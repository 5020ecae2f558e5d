#include "sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "core/best_of_row_for_test.h"
#include "sampling/fast_exp.h"
#include "sampling/random.h"

namespace quern {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

SamplingParams plain(float temperature = 1.0f) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_p = 1.0f;
  params.seed = 42;
  return params;
}

int32_t one(Sampler& sampler, std::vector<float> logits) { return sampler.sample(logits).token; }

std::vector<float> random_logits(int vocab, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& logit : logits) logit = normal(random);
  return logits;
}

/// The distribution that the chain describes, written down as plainly as possible: full sorts, doubles.
std::map<int32_t, double> expected(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<std::pair<double, int32_t>> all;
  const double highest = *std::ranges::max_element(logits);
  for (size_t i = 0; i < logits.size(); ++i)
    all.emplace_back(
        std::exp((static_cast<double>(logits[i]) - highest) / static_cast<double>(params.temperature)),
        static_cast<int32_t>(i));
  std::ranges::sort(
      all, [](auto& a, auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < all.size())
    all.resize(static_cast<size_t>(params.top_k));
  double total = 0;
  for (auto& [weight, token] : all) total += weight;
  double reached = 0;
  size_t kept = 0;
  while (kept < all.size() && (kept == 0 || reached < static_cast<double>(params.top_p) * total))
    reached += all[kept++].first;
  all.resize(kept);
  std::erase_if(all, [&](auto& c) { return c.first < static_cast<double>(params.min_p); });
  total = 0;
  for (auto& [weight, token] : all) total += weight;
  std::map<int32_t, double> result;
  for (auto& [weight, token] : all) result[token] = weight / total;
  return result;
}

/// Draws many times and holds the counts to `expected` by a chi-squared statistic.
void check_distribution(const std::vector<float>& logits, const SamplingParams& params) {
  const auto wanted = expected(logits, params);
  Sampler sampler(params, {}, static_cast<int32_t>(logits.size()));
  constexpr int kDraws = 20000;
  std::map<int32_t, int> counts;
  for (int i = 0; i < kDraws; ++i) ++counts[one(sampler, logits)];
  double statistic = 0, rest_wanted = 0, rest_seen = 0;
  int cells = 0;
  for (const auto& [token, count] : counts)
    ASSERT_TRUE(wanted.contains(token)) << "token " << token << " is cut off";
  for (const auto& [token, p] : wanted) {
    const double mean = p * kDraws, seen = counts.contains(token) ? counts.at(token) : 0;
    if (mean < 8) {  // small cells count together
      rest_wanted += mean;
      rest_seen += seen;
      continue;
    }
    statistic += (seen - mean) * (seen - mean) / mean;
    ++cells;
  }
  if (rest_wanted >= 8) {
    statistic += (rest_seen - rest_wanted) * (rest_seen - rest_wanted) / rest_wanted;
    ++cells;
  }
  const double freedom = std::max(cells - 1, 1);
  EXPECT_LT(statistic, freedom + 5 * std::sqrt(2 * freedom)) << cells << " cells";
}

TEST(Random, DrawsAreUniformAndDependOnSeedAndIndex) {
  double mean = 0;
  std::set<double> values;
  for (uint64_t seed = 0; seed < 100; ++seed)
    for (uint64_t i = 0; i < 100; ++i) {
      const double u = uniform(seed, i);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      mean += u / 10000;
      values.insert(u);
    }
  EXPECT_NEAR(mean, 0.5, 0.015);
  EXPECT_EQ(values.size(), 10000u);
}

TEST(FastExp, AgreesWithTheLibrary) {
  for (float x = 0; x > -87.0f; x -= 0.00391f)
    ASSERT_NEAR(exp_of_negative(x) / std::exp(static_cast<double>(x)), 1.0, 2.4e-7) << x;
  EXPECT_EQ(exp_of_negative(0.0f), 1.0f);
  EXPECT_EQ(exp_of_negative(-88.0f), 0.0f);
  for (const float x : {-kInf, kInf, kNaN, -3e38f}) EXPECT_EQ(exp_of_negative(x), 0.0f);
}

TEST(Sampler, GreedyTakesTheHighestAndTheLowestIdOfEquals) {
  Sampler sampler(plain(0), {}, 5);
  EXPECT_EQ(one(sampler, {0, 3, 1, 3, 2}), 1);
  EXPECT_EQ(one(sampler, {-5, -5, -5, -5, -5}), 0);
}

TEST(Sampler, NonFiniteLogitsAreImpossible) {
  for (const float temperature : {0.0f, 1.0f}) {
    Sampler sampler(plain(temperature), {}, 5);
    for (int i = 0; i < 50; ++i) EXPECT_EQ(one(sampler, {kNaN, kInf, -kInf, -3, kNaN}), 3);
    EXPECT_EQ(one(sampler, {kNaN, kInf, -kInf, kNaN, kNaN}), 0);
    EXPECT_EQ(one(sampler, std::vector<float>(5, -kInf)), 0);
  }
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const auto logits = random_logits(50, 1, 1.5f);
  check_distribution(logits, plain(1.0f));
  check_distribution(logits, plain(0.5f));
  check_distribution(logits, plain(3.0f));
}

TEST(Sampler, CutsAreExactAlsoOverLargeVocabularies) {
  for (const int vocab : {1, 2, 63, 64, 65, 1000, 5000}) {
    const auto logits = random_logits(vocab, static_cast<uint32_t>(vocab), 1.5f);
    for (const float top_p : {0.0f, 0.5f, 0.9f, 0.99f, 1.0f})
      for (const int top_k : {0, 1, 40, 100000})
        for (const float min_p : {0.0f, 0.1f, 1.0f}) {
          SamplingParams params = plain(0.8f);
          params.top_p = top_p, params.top_k = top_k, params.min_p = min_p;
          const auto wanted = expected(logits, params);
          Sampler sampler(params, {}, vocab);
          for (int i = 0; i < 40; ++i) {
            const int32_t token = one(sampler, logits);
            ASSERT_TRUE(wanted.contains(token))
                << "vocab " << vocab << " top_p " << top_p << " top_k " << top_k << " min_p " << min_p;
          }
        }
  }
}

TEST(Sampler, TheChainsOrderShowsInTheDistribution) {
  // top_p over the whole: {0.5, 0.25, …}; after top_k 2 the first alone has two thirds of what is left.
  const std::vector<float> logits{std::log(0.5f), std::log(0.25f), std::log(0.125f), std::log(0.125f)};
  SamplingParams params = plain();
  params.top_k = 2, params.top_p = 0.6f;
  EXPECT_EQ(expected(logits, params).size(), 1u);
  check_distribution(logits, params);
  params.top_k = 0;
  EXPECT_EQ(expected(logits, params).size(), 2u);
  check_distribution(logits, params);
  params.top_p = 1.0f, params.min_p = 0.49f,
  params.temperature = 2.0f;  // min_p after temperature: 1, √½, ½, ½
  EXPECT_EQ(expected(logits, params).size(), 4u);
  check_distribution(logits, params);
  for (uint32_t seed = 0; seed < 6; ++seed) {
    params = plain(0.9f);
    params.seed = seed, params.top_k = 20, params.top_p = 0.8f, params.min_p = 0.05f;
    check_distribution(random_logits(300, seed, 2.0f), params);
  }
}

TEST(Sampler, ATinyTemperatureIsGreedy) {
  for (const float temperature : {1e-3f, 1e-30f, 1e-45f}) {
    Sampler sampler(plain(temperature), {}, 4);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(one(sampler, {1, 2.5f, 2, -1}), 1);
    EXPECT_EQ(one(sampler, {3e38f, -3e38f, 0, 0}), 0);
  }
}

TEST(Sampler, TheSameSeedDrawsTheSame) {
  const auto logits = random_logits(1000, 3, 1.0f);
  const auto draw = [&](std::optional<uint64_t> seed) {
    SamplingParams params = plain();
    params.seed = seed;
    Sampler sampler(params, {}, 1000);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(one(sampler, logits));
    return tokens;
  };
  EXPECT_EQ(draw(7), draw(7));
  EXPECT_NE(draw(7), draw(8));
  EXPECT_NE(draw(std::nullopt), draw(std::nullopt));
}

/// What a device finds of a row is as good as the row: the same draws, and `enough` says when.
TEST(Sampler, TheBestOfARowAreEnough) {
  struct Case {
    float temperature, top_p, min_p;
    int32_t top_k;
    float spread;
    int most, least;  // of 100 rows that have to be enough
  };
  const Case cases[] = {
      {0, 1, 0, 0, 1, 100, 100},  {0.7f, 0.9f, 0, 0, 4, 100, 80},   {0.7f, 0.9f, 0, 0, 0.1f, 0, 0},
      {1, 1, 0, 40, 1, 100, 100}, {1.3f, 0.8f, 0, 64, 2, 100, 100}, {1, 1, 0.05f, 0, 4, 100, 60},
      {1, 1, 0, 0, 4, 0, 0},      {1, 1, 0, 65, 1, 0, 0},           {0.8f, 0.95f, 0.1f, 50, 3, 100, 100}};
  for (const Case& c : cases) {
    SamplingParams params = plain(c.temperature);
    params.top_p = c.top_p, params.min_p = c.min_p, params.top_k = c.top_k;
    Sampler whole(params, {}, 3000), best(params, {}, 3000);
    int enough = 0;
    for (uint32_t i = 0; i < 100; ++i) {
      std::vector<float> row = random_logits(3000, i, c.spread);
      row[7] = kNaN, row[8] = kInf, row[9] = -kInf, row[11] = row[12];
      const float scale = best.best_scale();
      const BestOfRow found = testing::best_of_row(row, scale > 0 ? scale : 1.0f);
      const bool is = best.enough(found);
      enough += is ? 1 : 0;
      const int32_t token = is ? best.sample(found).token : one(best, row);
      EXPECT_EQ(one(whole, row), token) << c.temperature << " " << c.top_p << " " << c.top_k << " " << i;
    }
    EXPECT_LE(enough, c.most) << c.temperature << " " << c.top_p << " " << c.top_k << " " << c.min_p;
    EXPECT_GE(enough, c.least) << c.temperature << " " << c.top_p << " " << c.top_k << " " << c.min_p;
  }
}

TEST(Sampler, WhatChangesLogitsNeedsTheRow) {
  const auto scale = [](auto change) {
    SamplingParams params = plain(0);
    change(params);
    return Sampler(params, {}, 10).best_scale();
  };
  EXPECT_EQ(scale([](SamplingParams&) {}), 1.0f);
  EXPECT_EQ(scale([](SamplingParams& p) { p.repetition_penalty = 1.1f; }), 0.0f);
  EXPECT_EQ(scale([](SamplingParams& p) { p.presence_penalty = 0.5f; }), 0.0f);
  EXPECT_EQ(scale([](SamplingParams& p) { p.frequency_penalty = -0.5f; }), 0.0f);
  EXPECT_EQ(scale([](SamplingParams& p) { p.logit_bias = {{3, 1.0f}}; }), 0.0f);
  EXPECT_EQ(scale([](SamplingParams& p) { p.temperature = 0.5f, p.top_p = 0.9f; }), 2.0f);
}

TEST(Sampler, RepetitionPenaltyCoversPromptAndAnswerOnce) {
  SamplingParams params = plain(0);
  params.repetition_penalty = 2.0f;
  Sampler sampler(params, std::vector<int32_t>{0, 0, 99, -1}, 4);
  EXPECT_EQ(one(sampler, {5, 3, 1, 0}), 1) << "0: 5/2 < 3";
  EXPECT_EQ(one(sampler, {5, 4, 1, 0}), 0) << "both halved, once";
  EXPECT_EQ(one(sampler, {-1, -1.5f, -1.9f, -3}), 2) << "negative ones are doubled";
}

TEST(Sampler, PresenceAndFrequencyCountTheAnswer) {
  SamplingParams params = plain(0);
  params.presence_penalty = 1.0f;
  Sampler presence(params, std::vector<int32_t>{0}, 3);
  EXPECT_EQ(one(presence, {2, 1.5f, 0}), 0) << "the prompt does not count";
  EXPECT_EQ(one(presence, {2, 1.5f, 0}), 1);
  EXPECT_EQ(one(presence, {2, 1.5f, 0}), 0) << "once, not once per occurrence";

  params.presence_penalty = 0;
  params.frequency_penalty = 0.4f;
  Sampler frequency(params, {}, 2);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 4; ++i) tokens.push_back(one(frequency, {2, 1}));
  EXPECT_EQ(tokens, (std::vector<int32_t>{0, 0, 0, 1})) << "2, 1.6, 1.2, then 0.8";
}

TEST(Sampler, LogitBias) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams params = plain(temperature);
    params.logit_bias = {{1, -100.0f}, {0, 1.5f}, {77, 100.0f}, {-1, 100.0f}};
    Sampler ban(params, {}, 3);
    for (int i = 0; i < 100; ++i) EXPECT_NE(one(ban, {0, 500, 1}), 1) << "a ban holds whatever the logit";
    params.logit_bias = {{2, 100.0f}};
    Sampler only(params, {}, 3);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(one(only, {0, 500, 1}), 2);
  }
  SamplingParams params = plain(0);
  params.logit_bias = {{0, 1.5f}};
  Sampler sampler(params, {}, 2);
  EXPECT_EQ(one(sampler, {0, 1}), 0);
  EXPECT_EQ(one(sampler, {0, 2}), 1);
}

TEST(Logprobs, AreTheModelsOwn) {
  SamplingParams params = plain(0.3f);
  params.logit_bias = {{2, 50.0f}};
  params.top_k = 1;
  Sampler sampler(params, {}, 4);
  std::vector<float> logits{std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};
  const Sampled sampled = sampler.sample(logits, 2);
  EXPECT_EQ(sampled.token, 2);
  EXPECT_NEAR(sampled.logprob, std::log(0.2f), 1e-6f);
  ASSERT_EQ(sampled.top.size(), 2u);
  EXPECT_EQ(sampled.top[0].token, 0);
  EXPECT_NEAR(sampled.top[0].logprob, std::log(0.4f), 1e-6f);
  EXPECT_EQ(sampled.top[1].token, 1);
}

TEST(Logprobs, AgreeWithDoublesOverALargeVocabulary) {
  const auto logits = random_logits(131072, 9, 4.0f);
  const double highest = *std::ranges::max_element(logits);
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit) - highest);
  const Sampled sampled = logprobs_of(logits, 17, 20);
  EXPECT_NEAR(sampled.logprob, static_cast<double>(logits[17]) - highest - std::log(total), 2e-6);
  ASSERT_EQ(sampled.top.size(), 20u);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(sampled.top[i].token, order[i]);
}

TEST(Logprobs, EdgeCases) {
  const Sampled impossible = logprobs_of(std::vector<float>{kNaN, 1, kInf, 1}, 0, 3);
  EXPECT_EQ(impossible.logprob, kImpossibleLogprob);
  ASSERT_EQ(impossible.top.size(), 2u) << "only possible tokens";
  EXPECT_EQ(impossible.top[0].token, 1);
  EXPECT_NEAR(impossible.top[0].logprob, std::log(0.5f), 1e-6f);
  EXPECT_TRUE(logprobs_of(std::vector<float>{kNaN, kNaN}, 1, 5).top.empty());
  EXPECT_EQ(logprobs_of(std::vector<float>{1, 2}, 9, 0).logprob, kImpossibleLogprob);
  EXPECT_EQ(logprobs_of(std::vector<float>{1}, 0, 0).logprob, 0.0f);
}

}  // namespace
}  // namespace quern
