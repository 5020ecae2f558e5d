// The models of a server: which there are, in which state, and the engine of each.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace quern {

enum class ModelState { absent, downloading, loading, ready, failed };

struct ModelStatus {
  std::string id;  // the reference as configured, selector and all
  ModelState state = ModelState::absent;
  uint64_t bytes_done = 0, bytes_total = 0;
  double eta_s = -1;  // −1: not known
  std::string error;  // for failed
  std::string device, quantization, architecture;
  uint64_t bytes = 0;  // weights and KV in memory
  int64_t parameters = 0;
  int64_t context = 0;
};

/// A ready model. Holders keep it alive; an EventSink must not be one, because the last holder must not let
/// go on the engine's own thread.
struct ServedModel {
  std::string id;
  std::unique_ptr<WeightSource> source;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: a base model
  std::string chat_template_problem;            // why it is null, for who asks for a chat
  std::string bos_text, eos_text;               // as templates want them
  std::string device, quantization, architecture;
  int64_t parameters = 0;
  uint64_t bytes = 0;              // weights and KV in memory
  std::unique_ptr<Engine> engine;  // destroyed first
};

struct HostOptions {
  std::vector<std::string> models;  // LLM_ALLOWED_MODELS, in order
  std::string model_path;           // LLM_MODEL_PATH
  EngineOptions engine;
  uint64_t memory_limit = 0;  // 0: 90 % of what is free
};

class ModelHost {
 public:
  /// Starts loading in the background, in order; returns at once.
  static std::unique_ptr<ModelHost> start(Backend& backend, HostOptions options,
                                          EngineObserver* observer = nullptr);
  virtual ~ModelHost() = default;

  virtual std::vector<ModelStatus> status() const = 0;
  /// "" means the default model; ids match as configured, also without their selector where that is
  /// unambiguous. not_found names what is served; unavailable: not ready yet (or failed, with the reason).
  virtual Result<std::shared_ptr<ServedModel>> get(std::string_view id) const = 0;
  /// Stops every engine.
  virtual void stop(std::chrono::milliseconds grace) = 0;
};

/// Loads one model reference (a path, a path below model_path, or quern/guide) without serving it: for
/// commands.
Result<std::unique_ptr<WeightSource>> open_model_source(const std::string& reference,
                                                        const std::string& model_path);

/// Everything `run` and `serve` need of one model. `model_options.max_batch_rows` is raised to what the
/// engine's options need.
Result<std::shared_ptr<ServedModel>> open_model(Backend& backend, const std::string& reference,
                                                const HostOptions& options, const ModelOptions& model_options,
                                                EngineObserver* observer = nullptr);

}  // namespace quern
