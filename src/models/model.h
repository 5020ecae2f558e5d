// A loaded model: tokens in, logits out.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "formats/weight_source.h"
#include "kv/kv_cache.h"

namespace quern {

/// Logits that need not all be read where a backend finds the best of a row itself.
struct BestWanted {
  int64_t tokens = 0;            // columns that are tokens: those before this one
  std::span<const float> scale;  // by logit row: of BestOfRow's total; 0: the best are never enough
  /// By logit row. One whose count is not 0 in the end was enough, and its logits were not read.
  std::span<BestOfRow> found;
  std::function<bool(size_t row)> enough;  // asked once found[row] is there
};

/// What one step computes.
struct ForwardBatch {
  std::span<const int32_t> tokens;           // row r's token
  std::span<const SequenceSlice> sequences;  // cover the rows, in order, without gaps
  std::span<const int32_t> logit_rows;       // rows whose logits are wanted, ascending
  const BestWanted* best = nullptr;          // null: logits are wanted whole
};

/// Read from the metadata, with the defaults that llama.cpp takes where an old file is silent.
struct ModelConfig {
  std::string architecture;  // "llama"
  std::string name;          // general.name; may be empty
  int64_t layers = 0;
  int64_t dim = 0;
  int64_t ffn_dim = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab = 0;
  int64_t context = 0;  // trained context length
  float norm_eps = 1e-5f;
  int64_t window = 0;   // sliding window; 0: none
  int64_t experts = 0;  // 0: dense
  int64_t experts_used = 0;
  RopeShape rope;
  std::vector<float> rope_frequency;  // rotated/2 values; see Backend::rope
};

/// Fails by naming the key: unsupported architecture (and which work), missing or absurd values.
/// `context_limit` is ModelOptions::context.
Result<ModelConfig> read_model_config(const WeightSource& source, int64_t context_limit = 0);

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  /// All parameters, and the bytes their weights take in the file.
  virtual int64_t parameters() const = 0;
  virtual KvShape kv_shape(int64_t block_size, KvType type) const = 0;
  /// Runs one step and writes logit_rows.size() × vocab floats to `logits` (but see BestWanted). Each row's
  /// logits are the same to the bit whatever else is in the step, and however a prompt is cut into steps.
  /// Fails, with nothing run, on a token that is not in the vocabulary, on more than max_batch_rows rows, and
  /// on parts that do not fit together; and, with results that mean nothing, when the device failed or the
  /// model's file was changed under it.
  virtual Result<> forward(const ForwardBatch& batch, KvCache& cache, std::span<float> logits) = 0;
  /// Tells a source that holds memory which of its tensors will not be read again: those whose weights are in
  /// their final form. Between steps, with the backend's step_mutex held. False: there is more to come.
  virtual bool release_source() { return true; }
};

struct ModelOptions {
  int64_t max_batch_rows = 512;  // most rows in one forward; activations are allocated once for it
  /// Longest sequence that will be run; 0: the model's own. Chooses between long-rope's factors.
  int64_t context = 0;
  /// Called with bytes prepared so far while loading; returning false cancels the load.
  std::function<bool(uint64_t done, uint64_t total)> progress;
};

/// `source` and `backend` must outlive the model. Errors name the tensor: missing, wrong shape, unknown type.
Result<std::unique_ptr<Model>> load_model(const WeightSource& source, Backend& backend,
                                          const ModelOptions& options = {});

/// Memory that load_model will take on a backend: all weights in their final form, and the activations of
/// `max_batch_rows` rows. `config` is the source's.
uint64_t model_memory(const WeightSource& source, const Backend& backend, const ModelConfig& config,
                      int64_t max_batch_rows);

}  // namespace quern
