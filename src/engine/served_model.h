// One model and everything that answering with it takes.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "models/checkpoint.h"

namespace quern {

/// A ready model. Holders keep it alive; an EventSink must not be one, because the last holder must not let
/// go on the engine's own thread.
struct ServedModel {
  std::string id;
  std::unique_ptr<WeightSource> source;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: a base model
  std::unique_ptr<ChatTemplate> tool_template;  // for conversations with tools; null: chat_template
  std::string chat_template_problem;            // why it is null, for who asks for a chat
  std::string bos_text, eos_text;               // as templates want them
  std::string device, quantization, architecture;
  int64_t parameters = 0;
  uint64_t bytes = 0;              // as MemoryPlan counts
  std::unique_ptr<Engine> engine;  // destroyed first
};

/// A model on this machine: what open_model_source takes.
struct ModelFiles {
  ModelFiles() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): most models are a path and nothing else
  ModelFiles(std::string path) : reference(std::move(path)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  ModelFiles(const char* path) : reference(path) {}

  std::string reference;         // a path as it stands or below model_path, or quern/guide
  std::string tokenizer_folder;  // whose tokenizer and chat template are taken; empty: the model's own
};

/// In bytes; returns false to cancel.
using LoadProgress = std::function<bool(uint64_t done, uint64_t total)>;

/// A model in the form in which it is served.
struct ServedSource {
  std::unique_ptr<WeightSource> source;
  /// Makes the tensors' data, where that takes memory (WeightSource::holds_memory): first the memory is
  /// planned and made free. Empty: the data is there.
  std::function<Result<>(const LoadProgress& progress, const std::stop_token& stop)> fill;
};

/// Makes the model that is served of the one that was opened (ISQ); it may take long. `id` is the reference
/// as configured.
using TransformSource =
    std::function<Result<ServedSource>(const std::string& id, std::unique_ptr<WeightSource> source,
                                       const LoadProgress& progress, const std::stop_token& stop)>;

struct LoadOptions {
  std::string model_path;     // LLM_MODEL_PATH
  TransformSource transform;  // empty: models are served as they are
  EngineOptions engine;
  uint64_t memory_limit = 0;  // 0: 90 % of what is free
};

/// What a model takes of the memory limit.
struct MemoryPlan {
  uint64_t weights = 0;  // in their final form, with activations and tokenizer
  uint64_t kv = 0;
  uint64_t total() const { return weights + kv; }
};

/// Plans for a model that shares `limit` with `models` − 1 others: the KV cache gets as much as all sequences
/// need at full length, but no more than the model's share leaves, except that one conversation of some
/// length always has room. Fails with resource_exhausted, naming both numbers, when the model cannot fit at
/// all.
Result<MemoryPlan> plan_memory(const Backend& backend, const WeightSource& source,
                               const EngineOptions& engine, uint64_t limit, size_t models);

/// Whether a reference is the bundled model or an existing file or folder (as it stands, or below
/// model_path).
bool is_local_model(const std::string& reference, const std::string& model_path);

/// Opens a local model's file without loading it; nothing of its weights is read.
Result<std::unique_ptr<WeightSource>> open_model_source(const ModelFiles& files,
                                                        const std::string& model_path);

/// A checkpoint some of whose shards are not here yet, as open_model_source would open it; `shards`, a part
/// of `source`, waits for them.
struct ArrivingModel {
  std::unique_ptr<WeightSource> source;
  ArrivingCheckpoint* shards = nullptr;
};
Result<ArrivingModel> open_arriving_model(const ModelFiles& files,
                                          std::span<const safetensors::AbsentShard> absent);

/// Loads what a plan was made for. `model_options.max_batch_rows` is raised to what the engine's options
/// need.
Result<std::shared_ptr<ServedModel>> open_model(Backend& backend, const std::string& id,
                                                std::unique_ptr<WeightSource> source, const MemoryPlan& plan,
                                                const EngineOptions& engine,
                                                const ModelOptions& model_options,
                                                EngineObserver* observer = nullptr);

/// All of it for one local model, alone under the limit.
Result<std::shared_ptr<ServedModel>> open_model(Backend& backend, const ModelFiles& files,
                                                const LoadOptions& options,
                                                EngineObserver* observer = nullptr);

}  // namespace quern
