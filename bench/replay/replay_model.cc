#include "replay_model.h"

#include <algorithm>

#include "core/check.h"

namespace quern::replay {

void ReplayModel::set_scripts(std::vector<Script> scripts) {
  texts_.clear(), prompts_.clear(), script_.clear();
  for (Script& script : scripts) {
    prompts_.push_back(script.prompt.size());
    texts_.push_back(std::move(script.prompt));
    texts_.back().insert(texts_.back().end(), script.answer.begin(), script.answer.end());
  }
}

/// Finds out whose sequences begin with this step.
void ReplayModel::recognize(const ForwardBatch& batch) {
  for (const SequenceSlice& s : batch.sequences) {
    if (s.start != 0) continue;
    const auto tokens = batch.tokens.subspan(static_cast<size_t>(s.row), static_cast<size_t>(s.count));
    const auto found = std::ranges::find_if(texts_, [&](const std::vector<int32_t>& text) {
      return text.size() >= tokens.size() && std::equal(tokens.begin(), tokens.end(), text.begin());
    });
    QUERN_CHECK(found != texts_.end());
    script_[s.blocks[0]] = static_cast<size_t>(found - texts_.begin());
  }
}

Result<> ReplayModel::forward(const ForwardBatch& batch, KvCache& cache, std::span<float> logits) {
  QUERN_TRY_VOID(model_->forward(batch, cache, logits));
  recognize(batch);
  const auto vocab = static_cast<size_t>(config().vocab);
  size_t row = 0;
  for (const SequenceSlice& s : batch.sequences) {
    const std::vector<int32_t>& text = texts_[script_.at(s.blocks[0])];
    for (; row < batch.logit_rows.size() && batch.logit_rows[row] < s.row + s.count; ++row) {
      const auto next = static_cast<size_t>(int64_t{s.start} + batch.logit_rows[row] - s.row + 1);
      if (next < text.size()) logits[row * vocab + static_cast<size_t>(text[next])] = 1e30f;
    }
  }
  return {};
}

}  // namespace quern::replay
