// Runs a text through a model, chunk by chunk.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "kv/kv_cache.h"
#include "models/model.h"

namespace quern {

/// Owns the cache of one model, for chunks of up to `context` tokens, one after the other.
class ChunkRunner {
 public:
  static Result<ChunkRunner> create(Backend& backend, Model& model, int64_t context,
                                    KvType kv_type = KvType::f16) {
    ChunkRunner runner(model);
    constexpr int64_t kBlock = 32;
    const int64_t blocks = (context + kBlock - 1) / kBlock;
    QUERN_TRY(runner.cache_,
              KvCache::create(backend, model.kv_shape(kBlock, kv_type), model.config().layers, blocks));
    runner.blocks_.resize(static_cast<size_t>(blocks));
    std::iota(runner.blocks_.begin(), runner.blocks_.end(), 0);
    return runner;
  }

  /// Runs the tokens from `at` on, at most kRows of them; the chunk's earlier ones must have been run. The
  /// logits of positions [first, last) among them are kept.
  Result<> step(std::span<const int32_t> chunk, int64_t at, int64_t first, int64_t last) {
    const int64_t rows = std::min(kRows, static_cast<int64_t>(chunk.size()) - at);
    wanted_.clear();
    for (int64_t i = std::max(first, at); i < std::min(at + rows, last); ++i)
      wanted_.push_back(static_cast<int32_t>(i - at));
    logits_.resize(wanted_.size() * vocab());
    const SequenceSlice slice{0, static_cast<int32_t>(rows), static_cast<int32_t>(at), blocks_};
    const auto part = chunk.subspan(static_cast<size_t>(at), static_cast<size_t>(rows));
    return model_->forward({part, {&slice, 1}, wanted_}, *cache_, logits_);
  }

  /// Of the last step, ascending, counted from its start.
  std::span<const int32_t> rows() const { return wanted_; }
  /// The logits of rows()[i].
  std::span<const float> logits(size_t i) const { return std::span(logits_).subspan(i * vocab(), vocab()); }

  static constexpr int64_t kRows = 256;  // a step's logits stay small even with a large vocabulary

 private:
  explicit ChunkRunner(Model& model) : model_(&model) {}
  size_t vocab() const { return static_cast<size_t>(model_->config().vocab); }

  Model* model_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> blocks_, wanted_;
  std::vector<float> logits_;
};

}  // namespace quern
