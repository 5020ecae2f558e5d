// The engine behind engine.h. engine.cc is what other threads call; engine_step.cc is the engine's own
// thread.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/active_request.h"
#include "engine/engine.h"
#include "kv/kv_cache.h"
#include "scheduler/scheduler.h"

namespace quern {

class EngineImpl final : public Engine {
 public:
  struct Parts {
    Backend& backend;
    std::unique_ptr<Model> model;
    std::shared_ptr<const Tokenizer> tokenizer;
    std::unique_ptr<KvCache> cache;
    EngineOptions options;  // context is what the cache holds
    EngineObserver* observer;
  };
  explicit EngineImpl(Parts parts);
  ~EngineImpl() override;

  Result<uint64_t> submit(Request request, EventSink sink) override;
  void cancel(uint64_t ticket) override;
  void stop(std::chrono::milliseconds grace) override;
  EngineStats stats() const override;
  int64_t context() const override { return parts_.options.context; }
  const ModelConfig& config() const override { return parts_.model->config(); }
  const Tokenizer& tokenizer() const override { return *parts_.tokenizer; }

 private:
  using Clock = std::chrono::steady_clock;
  /// One row of logits to come: of which slice, and after which position.
  struct LogitRow {
    size_t slice;
    int64_t position;
    bool samples;  // a next token may be sampled from it
  };
  struct NextTokens {
    uint64_t ticket;
    std::span<const int32_t> tokens;
  };

  double now() const { return std::chrono::duration<double>(Clock::now() - epoch_).count(); }
  Result<> check(const Request& request) const;
  Result<> check_device() const;

  // ---- engine_step.cc: the engine's thread.
  void run();
  bool wait_for_work();
  void release_source();
  void plan_step();
  void decide(double time);
  void drop_cancelled(double time);
  void end_all(const Error& error);
  void run_step();
  void end_step_with(const Error& error);
  Result<> forward();
  Result<> make_room_for_logits();
  void read_logits();
  void advance(ActiveRequest& request, const PlannedSlice& slice, std::span<float> logits,
               std::span<const BestOfRow> best);
  void commit_step();
  void deliver();

  const Parts parts_;
  const int32_t vocab_;  // logits in a row that are tokens
  const Clock::time_point epoch_ = Clock::now();

  mutable std::mutex mutex_;
  std::condition_variable wake_;     // there is work, or the engine is to quit
  std::condition_variable drained_;  // the last request has ended
  // Guarded by mutex_:
  Scheduler scheduler_;
  /// Until their last event is delivered. Only the engine's thread erases, so it may hold on to what it
  /// found.
  std::unordered_map<uint64_t, std::unique_ptr<ActiveRequest>> active_;
  uint64_t next_ticket_ = 1;
  bool any_cancelled_ = false, stopping_ = false, quit_ = false;
  Clock::time_point deadline_ = Clock::time_point::max();
  EngineStats counters_;

  // The engine's thread only; kept from step to step for their memory.
  Plan plan_;
  std::vector<ActiveRequest*> requests_;  // of the plan's slices
  std::vector<ActiveRequest*> started_;   // begin with this plan
  std::vector<ActiveRequest*> touched_;   // have events to deliver, or have ended
  std::vector<int32_t> tokens_, logit_rows_;
  std::vector<SequenceSlice> sequences_;
  std::vector<LogitRow> rows_;
  std::unique_ptr<DeviceBuffer> logits_memory_;
  std::span<float> logits_;        // of this step, in it
  std::vector<float> best_scale_;  // by row, as BestWanted has it
  std::vector<BestOfRow> best_;
  std::vector<NextTokens> next_tokens_;
  double forward_seconds_ = 0;
  bool source_released_ = false;  // the model's source holds no memory that can be given back
  EngineStats gained_;            // what this step adds to counters_

  std::jthread thread_;  // last: everything else is there before it starts
};

}  // namespace quern
