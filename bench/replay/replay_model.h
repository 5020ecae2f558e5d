// A model that computes every step as it is, and then says what it is told to.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "models/model.h"

namespace quern::replay {

struct Script {
  std::vector<int32_t> prompt, answer;
};

/// Wraps a model: the work of a step is the model's own, but the most likely next token of a sequence whose
/// prompt is a script's is that script's. Scripts' prompts must differ, and prefix caching must be off: a
/// sequence is known by its first block.
class ReplayModel final : public Model {
 public:
  explicit ReplayModel(std::unique_ptr<Model> model) : model_(std::move(model)) {}
  void set_scripts(std::vector<Script> scripts);

  const ModelConfig& config() const override { return model_->config(); }
  int64_t parameters() const override { return model_->parameters(); }
  KvShape kv_shape(int64_t block_size, KvType type) const override {
    return model_->kv_shape(block_size, type);
  }
  Result<> forward(const ForwardBatch& batch, KvCache& cache, std::span<float> logits) override;

 private:
  void recognize(const ForwardBatch& batch);

  const std::unique_ptr<Model> model_;
  std::vector<std::vector<int32_t>> texts_;  // prompt and answer
  std::vector<size_t> prompts_;              // their lengths
  std::map<int32_t, size_t> script_;         // by first block
};

}  // namespace quern::replay
