// The engine's thread: plan → forward → sample → commit → emit.
#include <algorithm>
#include <exception>
#include <utility>

#include "core/check.h"
#include "core/log.h"
#include "engine/engine_impl.h"

namespace quern {
namespace {

/// Nobody tells when a weight is in its final form: that often is looked, until all are.
constexpr auto kBetweenReleases = std::chrono::milliseconds(20);

}  // namespace

void EngineImpl::run() {
  while (wait_for_work()) {
    try {
      plan_step();
      run_step();
    } catch (const std::exception& error) {
      // No memory, most likely: what was being done is lost, the engine is not.
      log::error("a step failed", {{"error", error.what()}});
      const std::lock_guard lock(mutex_);
      end_all({ErrorCode::internal, fmt::format("the request failed: {}", error.what())});
    }
    deliver();
  }
}

/// False when the engine is to quit and no request is left.
bool EngineImpl::wait_for_work() {
  std::unique_lock lock(mutex_);
  if (active_.empty()) drained_.notify_all();
  const auto work = [&] { return quit_ || !active_.empty(); };
  while (!source_released_) {
    lock.unlock();
    release_source();
    lock.lock();
    if (wake_.wait_for(lock, kBetweenReleases, work)) break;
  }
  wake_.wait(lock, work);
  return !active_.empty();
}

/// Weights reach their final form in the background: what they were made of goes soon after.
void EngineImpl::release_source() {
  const std::lock_guard step(parts_.backend.step_mutex);
  source_released_ = parts_.model->release_source();
}

/// Decides what this step runs; fills plan_, requests_ and touched_.
void EngineImpl::plan_step() {
  plan_ = {};
  requests_.clear();
  started_.clear();
  const double time = now();
  {
    const std::lock_guard lock(mutex_);
    decide(time);
  }
  // Without the lock: a sampler may have to read the whole prompt.
  for (ActiveRequest* request : started_) request->admitted(time, parts_.observer);
}

/// With mutex_ held.
void EngineImpl::decide(double time) {
  drop_cancelled(time);
  if (stopping_ && Clock::now() >= deadline_)
    return end_all({ErrorCode::unavailable, "the server is stopping"});
  plan_ = scheduler_.plan(time);
  for (const uint64_t ticket : plan_.expired) {
    ActiveRequest* request = active_.at(ticket).get();
    request->end_with(
        {ErrorCode::unavailable,
         fmt::format("the request waited in the queue for {} ms, the longest allowed; try later",
                     parts_.options.queue_timeout.count())},
        time, parts_.observer);
    touched_.push_back(request);
  }
  for (const uint64_t ticket : plan_.admitted) started_.push_back(active_.at(ticket).get());
  for (const PlannedSlice& slice : plan_.slices) requests_.push_back(active_.at(slice.id).get());
  counters_.preemptions += plan_.put_back.size();
}

/// With mutex_ held.
void EngineImpl::drop_cancelled(double time) {
  if (!std::exchange(any_cancelled_, false)) return;
  for (auto& [ticket, request] : active_) {
    if (!request->cancelled.load(std::memory_order_acquire)) continue;
    request->end_cancelled(time, parts_.observer);
    scheduler_.remove(ticket);
    touched_.push_back(request.get());
  }
}

/// With mutex_ held.
void EngineImpl::end_all(const Error& error) {
  for (auto& [ticket, request] : active_) {
    scheduler_.remove(ticket);
    if (!request->ended()) request->end_with(error, now(), parts_.observer);
    touched_.push_back(request.get());
  }
}

void EngineImpl::run_step() {
  if (plan_.slices.empty()) return;
  Result<> done = forward();
  if (done) {
    read_logits();
    if (parts_.backend.failed()) done = fail(ErrorCode::internal, "the device failed");
  }
  if (!done) return end_step_with(done.error());
  commit_step();
}

void EngineImpl::end_step_with(const Error& error) {
  log::error("a step failed", {{"error", error.message}});
  const std::lock_guard lock(mutex_);
  if (parts_.backend.failed()) return end_all(error);  // so would all steps that follow
  for (ActiveRequest* request : requests_) {
    request->end_with(error, now(), parts_.observer);
    scheduler_.remove(request->ticket);
  }
  touched_.insert(touched_.end(), requests_.begin(), requests_.end());
}

Result<> EngineImpl::forward() {
  tokens_.clear(), sequences_.clear(), rows_.clear(), logit_rows_.clear(), best_scale_.clear();
  for (size_t i = 0; i < plan_.slices.size(); ++i) {
    const PlannedSlice& slice = plan_.slices[i];
    const auto first = static_cast<int32_t>(tokens_.size());
    const auto count = static_cast<int64_t>(slice.tokens.size());
    tokens_.insert(tokens_.end(), slice.tokens.begin(), slice.tokens.end());
    sequences_.push_back({.row = first,
                          .count = static_cast<int32_t>(count),
                          .start = static_cast<int32_t>(slice.start),
                          .blocks = slice.blocks});
    for (int64_t row = 0; row < count; ++row) {
      const bool samples = slice.samples && row + 1 + slice.drafted >= count && requests_[i]->samples();
      if (!samples && !requests_[i]->wants_logits_at(slice.start + row)) continue;
      rows_.push_back({i, slice.start + row, samples});
      best_scale_.push_back(samples ? requests_[i]->best_scale() : 0);
      logit_rows_.push_back(first + static_cast<int32_t>(row));
    }
  }
  best_.assign(rows_.size(), {});
  const BestWanted best{.tokens = vocab_, .scale = best_scale_, .found = best_, .enough = [this](size_t row) {
                          return requests_[rows_[row].slice]->enough(best_[row]);
                        }};
  QUERN_TRY_VOID(make_room_for_logits());
  const std::lock_guard turn(parts_.backend.step_mutex);
  const double begin = now();
  QUERN_TRY_VOID(parts_.model->forward(
      {.tokens = tokens_, .sequences = sequences_, .logit_rows = logit_rows_, .best = &best}, *parts_.cache,
      logits_));
  forward_seconds_ = now() - begin;
  return {};
}

Result<> EngineImpl::make_room_for_logits() {
  const size_t count = rows_.size() * static_cast<size_t>(parts_.model->config().vocab);
  const size_t bytes = count * sizeof(float);
  logits_ = {};
  if (bytes == 0) return {};
  if (logits_memory_ == nullptr || logits_memory_->size() < bytes) {
    logits_memory_.reset();
    QUERN_TRY(logits_memory_, parts_.backend.alloc_host(bytes + bytes / 2));
  }
  logits_ = {static_cast<float*>(logits_memory_->data()), count};
  return {};
}

/// What the logits say: prompts' log-probabilities, next tokens, ends.
void EngineImpl::read_logits() {
  next_tokens_.clear();
  gained_ = {};
  const auto stride = static_cast<size_t>(parts_.model->config().vocab);
  size_t row = 0;  // of rows_, where the rows of a slice come one after another, those that sample last
  for (size_t i = 0; i < plan_.slices.size(); ++i) {
    const PlannedSlice& slice = plan_.slices[i];
    ActiveRequest& request = *requests_[i];
    for (; row < rows_.size() && rows_[row].slice == i && !rows_[row].samples; ++row)
      request.prompt_logits(rows_[row].position, logits_.subspan(row * stride, static_cast<size_t>(vocab_)));
    if (!slice.samples) continue;
    const size_t count = request.samples() ? 1 + static_cast<size_t>(slice.drafted) : 0;
    advance(request, slice, logits_.subspan(row * stride, count * stride),
            std::span(best_).subspan(row, count));
    row += count;
    touched_.push_back(&request);
  }
  QUERN_DCHECK(row == rows_.size());
}

void EngineImpl::advance(ActiveRequest& request, const PlannedSlice& slice, std::span<float> logits,
                         std::span<const BestOfRow> best) {
  if (!request.answering()) {
    gained_.prompt_tokens += request.request().prompt.size();
    gained_.cached_tokens += static_cast<uint64_t>(slice.cached);
  }
  const int32_t before = request.generated();
  const auto tokens = request.next_tokens({.logits = logits,
                                           .stride = static_cast<size_t>(parts_.model->config().vocab),
                                           .best = best,
                                           .guesses = slice.tokens.last(static_cast<size_t>(slice.drafted)),
                                           .cached = slice.cached,
                                           .now = now()},
                                          parts_.options.context, parts_.observer);
  gained_.generated_tokens += static_cast<uint64_t>(request.generated() - before);
  if (!tokens.empty()) next_tokens_.push_back({request.ticket, tokens});
}

void EngineImpl::commit_step() {
  const std::lock_guard lock(mutex_);
  scheduler_.commit(plan_);
  scheduler_.measured(static_cast<int64_t>(tokens_.size()), forward_seconds_);
  for (const NextTokens& next : next_tokens_) scheduler_.append(next.ticket, next.tokens);
  ++counters_.steps;
  counters_.prompt_tokens += gained_.prompt_tokens;
  counters_.cached_tokens += gained_.cached_tokens;
  counters_.generated_tokens += gained_.generated_tokens;
  for (const ActiveRequest* request : requests_)
    if (request->ended()) scheduler_.remove(request->ticket);
}

/// Hands out the events, and forgets the requests that have ended: outside the lock, because a receiver (or
/// what its end destroys) may take time.
void EngineImpl::deliver() {
  std::vector<std::unique_ptr<ActiveRequest>> ended;
  for (ActiveRequest* request : touched_) {
    if (request->deliver() || request->ended()) continue;
    const std::lock_guard lock(mutex_);
    request->cancelled.store(true, std::memory_order_release);
    any_cancelled_ = true;
  }
  {
    const std::lock_guard lock(mutex_);
    for (const ActiveRequest* request : touched_) {
      const auto found = request->ended() ? active_.find(request->ticket) : active_.end();
      if (found == active_.end()) continue;
      ended.push_back(std::move(found->second));
      active_.erase(found);
    }
  }
  touched_.clear();
  requests_.clear();
}

}  // namespace quern
