// One model being served: continuous batching over a paged KV cache. A step is
// plan → forward → sample → commit → emit, on the engine's own thread; other threads post requests and get
// events.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "models/model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace quern {

struct EngineOptions {
  int max_running = 10;  // LLM_MAX_CONCURRENT_REQUESTS
  int max_queued = 100;  // LLM_MAX_QUEUED_REQUESTS
  std::chrono::milliseconds queue_timeout{30000};
  int64_t context = 0;    // 0: the model's, within kv_bytes
  uint64_t kv_bytes = 0;  // bound for the KV cache; 0: enough for max_running × context, within memory
  KvType kv_type = KvType::f16;
  int64_t block_size = 32;
  bool prefix_caching = true;
  int64_t chunk_rows = 256;  // most prompt rows in one step
  int64_t draft_rows = 32;   // most guessed tokens in one step (scheduler.h); 0: none. Answers are the same
  /// GPU_PRESSURE_THRESHOLD: requests are refused while more of the device's own memory is in use, in
  /// percent.
  double device_threshold = 100;
  double draft_cost = 0;  // as SchedulerOptions has it: for tests
};

/// A snapshot for /metrics and /api/llms.
struct EngineStats {
  int running = 0, waiting = 0;
  int64_t kv_blocks_total = 0,
          kv_blocks_free = 0;  // free: not held by a request (cached prefixes count as free)
  uint64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0, preemptions = 0, steps = 0;
  uint64_t drafts_proposed = 0, drafts_accepted = 0;  // tokens guessed and computed; those that came true
};

/// Observations for histograms, called on the engine's thread; must not call the engine.
struct EngineObserver {
  virtual ~EngineObserver() = default;
  virtual void first_token(double seconds) {}
  virtual void output_token(double seconds) {}
  virtual void queued(double seconds) {}
  virtual void finished(double seconds, FinishReason reason) {}
  /// Ended with an Error, after so long: never begun in time, a step that failed, the engine's end.
  virtual void failed(double seconds) {}
};

class Engine {
 public:
  /// The model is loaded already, for batches of at least max_running + chunk_rows rows; the engine allocates
  /// KV and starts its thread. `backend` outlives the engine.
  static Result<std::unique_ptr<Engine>> create(Backend& backend, std::unique_ptr<Model> model,
                                                std::shared_ptr<const Tokenizer> tokenizer,
                                                const EngineOptions& options,
                                                EngineObserver* observer = nullptr);
  virtual ~Engine() = default;

  /// Posts a request; its events go to `sink`. Refused at once, without an event: an empty or too long prompt
  /// (invalid_argument, with both numbers), a full queue or a stopping engine (unavailable). A request that
  /// waits longer than the queue timeout ends with an unavailable Error event.
  virtual Result<uint64_t> submit(Request request, EventSink sink) = 0;
  /// Stops a request within one step; no event follows once this returns … unless one is being delivered
  /// right now. Unknown or ended tickets are ignored.
  virtual void cancel(uint64_t ticket) = 0;
  /// Refuses new requests, lets running and queued ones finish for at most `grace`, then ends the rest with
  /// an unavailable Error. Idempotent.
  virtual void stop(std::chrono::milliseconds grace) = 0;

  virtual EngineStats stats() const = 0;
  /// Longest sequence, prompt and answer together.
  virtual int64_t context() const = 0;
  virtual const ModelConfig& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
};

}  // namespace quern
