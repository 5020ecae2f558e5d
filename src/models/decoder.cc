#include "models/decoder.h"

#include <algorithm>
#include <cmath>

namespace quern {

Decoder::Decoder(Backend& backend, ModelConfig config, DecoderWeights weights, DecoderScratch scratch)
    : backend_(backend),
      config_(std::move(config)),
      weights_(std::move(weights)),
      scratch_(std::move(scratch)) {
  attention_.shape = {config_.heads, 1.0f / std::sqrt(static_cast<float>(config_.head_dim)), config_.window};
  attention_.rope = config_.rope;
  attention_.frequency = weights_.rope_frequency.get();
  positions_.reserve(static_cast<size_t>(scratch_.x.rows));
}

Result<> Decoder::forward(const ForwardBatch& batch, KvCache& cache, std::span<float> logits) {
  QUERN_TRY_VOID(check(batch, cache, logits));
  positions_.clear();
  for (const SequenceSlice& s : batch.sequences) {
    for (int32_t i = 0; i < s.count; ++i) positions_.push_back(s.start + i);
  }
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  x_ = scratch_.x.slice_rows(0, rows);
  normed_ = scratch_.normed.slice_rows(0, rows);
  heads_ = scratch_.heads.slice_rows(0, rows);
  if (rows == 0) return {};

  backend_.begin_step({batch.tokens, positions_, batch.sequences, batch.logit_rows});
  backend_.embed(x_, *weights_.embedding, batch.tokens);
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    const DecoderLayer& layer = weights_.layers[i];
    run_attention(layer, batch, cache.layer(static_cast<int64_t>(i)), cache.shape());
    if (i + 1 == weights_.layers.size()) keep_logit_rows(batch);
    if (x_.rows == 0) break;  // a chunk of a prompt: only its keys and values were wanted
    run_feed_forward(layer);
  }
  if (x_.rows > 0) run_head(logits, batch.best);
  QUERN_TRY_VOID(backend_.end_step());
  return weights_.source->check();
}

bool Decoder::release_source() {
  std::erase_if(weights_.held, [&](const DecoderWeights::Held& held) {
    const Weight::SourceUse use = held.weight->source_use();
    if (use == Weight::SourceUse::never) weights_.source->forget(held.data);
    return use != Weight::SourceUse::until_final;
  });
  return weights_.held.empty();
}

Result<> Decoder::check(const ForwardBatch& batch, const KvCache& cache, std::span<float> logits) const {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  if (rows > scratch_.x.rows) {
    return fail(ErrorCode::invalid_argument, "a step of {} rows; the model was loaded for at most {}", rows,
                scratch_.x.rows);
  }
  const auto in_vocab = [&](int32_t t) { return t >= 0 && t < config_.vocab; };
  if (const auto bad = std::ranges::find_if_not(batch.tokens, in_vocab); bad != batch.tokens.end())
    return fail(ErrorCode::invalid_argument, "token {} is not in the vocabulary of {}", *bad, config_.vocab);
  const KvShape& kv = cache.shape();
  if (kv.kv_heads != config_.kv_heads || kv.head_dim != config_.head_dim)
    return fail(ErrorCode::internal, "the KV cache was made for another model");
  int64_t covered = 0;
  for (const SequenceSlice& s : batch.sequences) {
    const auto capacity = static_cast<int64_t>(s.blocks.size()) * kv.block_size;
    if (s.row != covered || s.count < 1 || s.start < 0 || int64_t{s.start} + s.count > capacity)
      return fail(ErrorCode::internal, "a sequence of the step has {} rows from position {} in {} slots",
                  s.count, s.start, capacity);
    covered += s.count;
  }
  const bool rows_fit =
      std::ranges::all_of(batch.logit_rows, [&](int32_t r) { return r >= 0 && r < rows; }) &&
      std::ranges::adjacent_find(batch.logit_rows, std::greater_equal<>()) == batch.logit_rows.end();
  const BestWanted* best = batch.best;
  const bool best_fits =
      best == nullptr || (best->scale.size() == batch.logit_rows.size() &&
                          best->found.size() == best->scale.size() && best->tokens <= config_.vocab);
  if (covered != rows || !rows_fit || !best_fits ||
      logits.size() < batch.logit_rows.size() * static_cast<size_t>(config_.vocab))
    return fail(ErrorCode::internal, "the parts of a step do not fit together");
  return {};
}

void Decoder::run_attention(const DecoderLayer& layer, const ForwardBatch& batch, KvLayer cache,
                            const KvShape& kv) {
  const Tensor qkv = scratch_.qkv.slice_rows(0, x_.rows);
  layer.attn_norm(backend_, normed_, x_);
  nn::project_qkv(backend_, layer.attention, attention_, qkv, normed_, positions_, cache, kv,
                  batch.sequences);
  const bool last = &layer == &weights_.layers.back();
  if (last && batch.logit_rows.empty()) return;
  backend_.attention(heads_, qkv.slice_cols(0, attention_.q_cols()), cache, kv, attention_.shape,
                     batch.sequences);
}

void Decoder::keep_logit_rows(const ForwardBatch& batch) {
  const auto rows = static_cast<int64_t>(batch.logit_rows.size());
  if (rows > 0 && rows < x_.rows) {
    // The norm's output and the projections have been used: their memory takes the rows that remain.
    const Tensor kept = scratch_.normed.slice_rows(0, rows);
    const Tensor kept_heads = scratch_.qkv.slice_rows(0, rows).slice_cols(0, heads_.cols);
    backend_.gather_rows(kept, x_, batch.logit_rows);
    backend_.gather_rows(kept_heads, heads_, batch.logit_rows);
    normed_ = scratch_.x;
    x_ = kept;
    heads_ = kept_heads;
  }
  x_ = x_.slice_rows(0, rows);
  normed_ = normed_.slice_rows(0, rows);
}

void Decoder::run_feed_forward(const DecoderLayer& layer) {
  layer.attention.out(backend_, x_, heads_, /*accumulate=*/true);
  layer.ffn_norm(backend_, normed_, x_);
  if (layer.moe) {
    nn::moe(backend_, *layer.moe, config_.experts_used, x_, normed_, scratch_.moe);
  } else {
    nn::mlp(backend_, layer.mlp, x_, normed_, scratch_.gate_up);
  }
}

void Decoder::run_head(std::span<float> logits, const BestWanted* best) {
  const Weight& head = weights_.head ? *weights_.head.weight : *weights_.embedding;
  for (int64_t first = 0; first < x_.rows; first += scratch_.logits.rows) {
    const int64_t rows = std::min(scratch_.logits.rows, x_.rows - first);
    const Tensor out = scratch_.logits.slice_rows(0, rows);
    const Tensor normed = normed_.slice_rows(first, rows);
    weights_.output_norm(backend_, normed, x_.slice_rows(first, rows));
    backend_.matmul(out, head, normed, weights_.head.bias.get());
    read_logits(logits.data() + first * config_.vocab, out, first, best);
  }
}

/// Of rows from `first` on: those whose best are not enough.
void Decoder::read_logits(float* to, Tensor part, int64_t first, const BestWanted* best) {
  const auto at = [&](int64_t row) { return static_cast<size_t>(first + row); };
  const auto some = [&](const BestWanted& b) {
    return std::ranges::any_of(b.scale.subspan(at(0), static_cast<size_t>(part.rows)),
                               [](float scale) { return scale > 0; });
  };
  const auto find = [&](const BestWanted& b) {
    const auto rows = static_cast<size_t>(part.rows);
    return backend_.best_of_rows(b.found.subspan(at(0), rows), part.slice_cols(0, b.tokens),
                                 b.scale.subspan(at(0), rows));
  };
  if (best == nullptr || !some(*best) || !find(*best)) return backend_.read(to, part);
  const auto enough = [&](int64_t row) {
    BestOfRow& found = best->found[at(row)];
    const bool is = best->scale[at(row)] > 0 && found.count > 0 && best->enough(at(row));
    if (!is) found.count = 0;
    return is;
  };
  int64_t unread = 0;  // rows from here to the current one are to be read
  for (int64_t row = 0; row <= part.rows; ++row) {
    if (row < part.rows && !enough(row)) continue;
    if (row > unread) backend_.read(to + unread * config_.vocab, part.slice_rows(unread, row - unread));
    unread = row + 1;
  }
}

Result<std::unique_ptr<Model>> load_model(const WeightSource& source, Backend& backend,
                                          const ModelOptions& options) {
  if (options.max_batch_rows < 1 || options.max_batch_rows > 1 << 20)
    return fail(ErrorCode::invalid_argument, "max_batch_rows is {}, must be in 1…{}", options.max_batch_rows,
                1 << 20);
  QUERN_TRY(ModelConfig config, read_model_config(source, options.context));
  const ArchSpec* arch = find_arch(config.architecture);
  QUERN_TRY(auto weights, load_decoder_weights(source, backend, *arch, config, options));
  QUERN_TRY(auto scratch, allocate_scratch(backend, config, options.max_batch_rows));
  return std::make_unique<Decoder>(backend, std::move(config), std::move(weights), std::move(scratch));
}

}  // namespace quern
