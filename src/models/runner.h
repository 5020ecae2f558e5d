// Runs a model over paged sequences, for tests.
#pragma once

#include <gtest/gtest.h>

#include <numeric>

#include "models/model.h"
#include "models/random_model.h"

namespace quern::testing {

inline std::vector<int32_t> random_tokens(int64_t count, int64_t vocab, uint32_t seed = 7) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return tokens;
}

struct TestSequence {
  std::vector<int32_t> blocks;
  int32_t position = 0;
};

/// A model with a cache; blocks are handed out in a scattered order.
class Runner {
 public:
  static constexpr int64_t blocks = 64;

  explicit Runner(const WeightSource& source, const ModelOptions& options = {}, int threads = 1)
      : Runner(source, options, cpu(threads)) {}
  Runner(const WeightSource& source, const ModelOptions& options, std::shared_ptr<Backend> backend)
      : backend_(std::move(backend)) {
    auto model = load_model(source, *backend_, options);
    EXPECT_TRUE(model.has_value()) << (model ? "" : model.error().message);
    model_ = *std::move(model);
    auto cache =
        KvCache::create(*backend_, model_->kv_shape(16, KvType::f16), model_->config().layers, blocks);
    EXPECT_TRUE(cache.has_value()) << (cache ? "" : cache.error().message);
    cache_ = *std::move(cache);
    free_.resize(static_cast<size_t>(blocks));
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(3));
  }

  Model& model() { return *model_; }
  KvCache& cache() { return *cache_; }
  Backend& backend() { return *backend_; }

  struct Part {
    TestSequence* sequence;
    std::span<const int32_t> tokens;
  };

  /// One step over several sequences; the logits of the rows asked for (default: all).
  std::vector<float> step(const std::vector<Part>& parts,
                          std::optional<std::vector<int32_t>> logit_rows = {}) {
    std::vector<int32_t> tokens;
    std::vector<SequenceSlice> slices;
    for (const Part& part : parts) {
      const auto count = static_cast<int32_t>(part.tokens.size());
      TestSequence& s = *part.sequence;
      while (static_cast<int64_t>(s.blocks.size()) * cache_->shape().block_size < s.position + count) {
        s.blocks.push_back(free_.back());
        free_.pop_back();
      }
      slices.push_back({static_cast<int32_t>(tokens.size()), count, s.position, s.blocks});
      tokens.insert(tokens.end(), part.tokens.begin(), part.tokens.end());
      s.position += count;
    }
    if (!logit_rows) {
      logit_rows.emplace(tokens.size());
      std::iota(logit_rows->begin(), logit_rows->end(), 0);
    }
    std::vector<float> logits(logit_rows->size() * static_cast<size_t>(model_->config().vocab));
    const auto done = model_->forward({tokens, slices, *logit_rows}, *cache_, logits);
    EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().message);
    return logits;
  }

  /// A new sequence in steps of the given sizes (the rest in one); logits of every position.
  std::vector<float> run(std::span<const int32_t> tokens, std::span<const int64_t> chunks = {}) {
    TestSequence sequence;
    std::vector<float> all;
    size_t at = 0;
    const auto advance = [&](size_t count) {
      const auto logits = step({{&sequence, tokens.subspan(at, count)}});
      all.insert(all.end(), logits.begin(), logits.end());
      at += count;
    };
    for (const int64_t chunk : chunks) advance(static_cast<size_t>(chunk));
    if (at < tokens.size()) advance(tokens.size() - at);
    release(sequence);
    return all;
  }

  void release(TestSequence& sequence) {
    free_.insert(free_.end(), sequence.blocks.begin(), sequence.blocks.end());
    sequence = {};
  }

 private:
  static std::shared_ptr<Backend> cpu(int threads) {
    auto backend = make_cpu_backend({.threads = threads});
    EXPECT_TRUE(backend.has_value()) << (backend ? "" : backend.error().message);
    return *std::move(backend);
  }

  std::shared_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> free_;
};

}  // namespace quern::testing
