#include <benchmark/benchmark.h>

#include <random>

#include "sampling/sampler.h"

namespace quern {
namespace {

// One token over a vocabulary as large as Llama 3's. Arguments: temperature and top_p in percent, top_k.
void sample(benchmark::State& state) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits(128256), scratch;
  for (float& logit : logits) logit = normal(random);
  for (int i = 0; i < 20; ++i)
    logits[random() % logits.size()] += 12;  // a few likely tokens, as models have them
  SamplingParams params;
  params.temperature = static_cast<float>(state.range(0)) / 100;
  params.top_p = static_cast<float>(state.range(1)) / 100;
  params.top_k = static_cast<int32_t>(state.range(2));
  Sampler sampler(params, {}, static_cast<int32_t>(logits.size()));
  for (auto _ : state) {
    scratch = logits;
    benchmark::DoNotOptimize(sampler.sample(scratch).token);
  }
}
BENCHMARK(sample)
    ->Args({0, 100, 0})
    ->Args({70, 90, 0})
    ->Args({100, 100, 0})
    ->Args({70, 100, 40})
    ->Args({150, 99, 0});

void logprobs(benchmark::State& state) {
  std::vector<float> logits(128256);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 2.5f);
  for (float& logit : logits) logit = normal(random);
  for (auto _ : state) benchmark::DoNotOptimize(logprobs_of(logits, 5, 20));
}
BENCHMARK(logprobs);

}  // namespace
}  // namespace quern
