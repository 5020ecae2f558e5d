// The common decoder: embed → layers (norm, attention, residual, norm, feed-forward or experts, residual) →
// norm → head. What differs between architectures is data (arch.h).
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "models/arch.h"
#include "models/model.h"
#include "nn/attention.h"
#include "nn/mlp.h"
#include "nn/moe.h"

namespace quern {

class TensorTable;

struct DecoderLayer {
  nn::RmsNorm attn_norm, ffn_norm;
  nn::AttentionWeights attention;
  nn::MlpWeights mlp;
  std::optional<nn::MoeWeights> moe;  // instead of mlp
};

struct DecoderWeights {
  std::unique_ptr<Weight> embedding;
  std::vector<DecoderLayer> layers;
  nn::RmsNorm output_norm;
  nn::Linear head;  // weight is null when the embedding serves as head
  std::unique_ptr<Vector> rope_frequency;
  int64_t parameters = 0;
  const WeightSource* source = nullptr;  // where they came from, and may still be read
  /// Of a source that holds memory: the weights that may need it no more one day, and what it holds of each.
  struct Held {
    const Weight* weight;
    std::span<const std::byte> data;
  };
  std::vector<Held> held;
};

/// Prepares all weights on the backend. Nothing is allocated before every tensor's name and shape are
/// checked.
Result<DecoderWeights> load_decoder_weights(const WeightSource& source, Backend& backend,
                                            const ArchSpec& arch, const ModelConfig& config,
                                            const ModelOptions& options);

/// One layer's weights alone.
Result<DecoderLayer> load_decoder_layer(const TensorTable& table, Backend& backend, const ModelConfig& config,
                                        int64_t layer);

/// Everything `forward` writes, allocated once.
struct DecoderScratch {
  std::unique_ptr<DeviceBuffer> memory;
  Tensor x, normed;  // max rows × dim
  Tensor qkv;        // × (heads + 2 · kv_heads) · head_dim
  Tensor heads;      // × heads · head_dim
  Tensor gate_up;    // × 2 · ffn_dim (dense)
  nn::MoeScratch moe;
  Tensor logits;  // at most 64 rows × vocab: the head runs in parts of this size
};

Result<DecoderScratch> allocate_scratch(Backend& backend, const ModelConfig& config, int64_t max_rows);

class Decoder final : public Model {
 public:
  Decoder(Backend& backend, ModelConfig config, DecoderWeights weights, DecoderScratch scratch);

  const ModelConfig& config() const override { return config_; }
  int64_t parameters() const override { return weights_.parameters; }
  KvShape kv_shape(int64_t block_size, KvType type) const override {
    return {config_.kv_heads, config_.head_dim, block_size, type};
  }
  Result<> forward(const ForwardBatch& batch, KvCache& cache, std::span<float> logits) override;
  bool release_source() override;

 private:
  Result<> check(const ForwardBatch& batch, const KvCache& cache, std::span<float> logits) const;
  /// Attention of one layer up to the heads' outputs.
  void run_attention(const DecoderLayer& layer, const ForwardBatch& batch, KvLayer cache, const KvShape& kv);
  void run_feed_forward(const DecoderLayer& layer);
  /// Leaves only the rows whose logits are wanted.
  void keep_logit_rows(const ForwardBatch& batch);
  void run_head(std::span<float> logits, const BestWanted* best);
  void read_logits(float* to, Tensor part, int64_t first, const BestWanted* best);

  Backend& backend_;
  ModelConfig config_;
  DecoderWeights weights_;
  DecoderScratch scratch_;
  nn::AttentionLayout attention_;
  std::vector<int32_t> positions_;
  // The rows in work: views of the scratch.
  Tensor x_, normed_, heads_;
};

}  // namespace quern
