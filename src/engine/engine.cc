#include "engine/engine.h"

#include <algorithm>
#include <utility>

#include "core/log.h"
#include "engine/engine_impl.h"
#include "engine/memory.h"

namespace quern {
namespace {

constexpr int kMostTopLogprobs = 20;

Result<> check_options(const EngineOptions& options) {
  const auto in_range = [](std::string_view name, int64_t value, int64_t least, int64_t most) -> Result<> {
    if (value >= least && value <= most) return {};
    return fail(ErrorCode::invalid_argument, "engine: {} is {}, must be in {}…{}", name, value, least, most);
  };
  QUERN_TRY_VOID(in_range("max_running", options.max_running, 1, 1 << 16));
  QUERN_TRY_VOID(in_range("max_queued", options.max_queued, 0, 1 << 30));
  QUERN_TRY_VOID(in_range("block_size", options.block_size, 1, 1 << 16));
  QUERN_TRY_VOID(in_range("chunk_rows", options.chunk_rows, 1, 1 << 20));
  QUERN_TRY_VOID(in_range("draft_rows", options.draft_rows, 0, 1 << 10));
  return in_range("context", options.context, 0, int64_t{1} << 31);
}

/// The options with the context that the cache will hold, and the number of blocks.
Result<std::pair<EngineOptions, int64_t>> size_cache(const Backend& backend, const ModelConfig& config,
                                                     const KvShape& shape, EngineOptions options) {
  const int64_t trained = config.context;
  if (options.context > trained)
    log::warn("the context asked for is longer than the model's; using the model's",
              {{"asked", options.context}, {"model", trained}});
  const int64_t wanted = options.context > 0 ? std::min(options.context, trained) : trained;
  const uint64_t budget = options.kv_bytes > 0 ? options.kv_bytes : available_memory(backend) / 10 * 9;
  QUERN_TRY(const KvPlan kv,
            plan_kv({.block_bytes = backend.kv_block_bytes(shape) * static_cast<uint64_t>(config.layers),
                     .block_size = options.block_size,
                     .context = wanted,
                     .sequences = options.max_running,
                     .budget_bytes = budget}));
  if (kv.context < wanted)
    log::warn("the context is shorter than wanted, for memory",
              {{"context", kv.context}, {"wanted", wanted}, {"kv_bytes", budget}});
  options.context = kv.context;
  return std::pair{options, kv.blocks};
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create(Backend& backend, std::unique_ptr<Model> model,
                                               std::shared_ptr<const Tokenizer> tokenizer,
                                               const EngineOptions& options, EngineObserver* observer) {
  QUERN_TRY_VOID(check_options(options));
  QUERN_TRY_VOID(backend.supports(options.kv_type));
  const ModelConfig& config = model->config();
  const KvShape shape = model->kv_shape(options.block_size, options.kv_type);
  QUERN_TRY(const auto sized, size_cache(backend, config, shape, options));
  QUERN_TRY(auto cache, KvCache::create(backend, shape, config.layers, sized.second));
  return std::make_unique<EngineImpl>(EngineImpl::Parts{.backend = backend,
                                                        .model = std::move(model),
                                                        .tokenizer = std::move(tokenizer),
                                                        .cache = std::move(cache),
                                                        .options = sized.first,
                                                        .observer = observer});
}

EngineImpl::EngineImpl(Parts parts)
    : parts_(std::move(parts)),
      vocab_(static_cast<int32_t>(std::min<int64_t>(parts_.model->config().vocab, parts_.tokenizer->size()))),
      scheduler_({.max_running = parts_.options.max_running,
                  .max_queued = parts_.options.max_queued,
                  .queue_timeout = std::chrono::duration<double>(parts_.options.queue_timeout).count(),
                  .context = parts_.options.context,
                  .chunk_rows = parts_.options.chunk_rows,
                  .draft_rows = parts_.options.draft_rows,
                  .draft_cost = parts_.options.draft_cost},
                 parts_.cache->blocks(), parts_.options.block_size, parts_.options.prefix_caching),
      thread_([this] { run(); }) {}

EngineImpl::~EngineImpl() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = quit_ = true;
    deadline_ = Clock::now();
  }
  wake_.notify_all();
  thread_.join();
}

Result<> EngineImpl::check(const Request& request) const {
  const auto vocab = static_cast<int32_t>(parts_.model->config().vocab);
  for (size_t i = 0; i < request.prompt.size(); ++i)
    if (request.prompt[i] < 0 || request.prompt[i] >= vocab)
      return fail(ErrorCode::invalid_argument, "prompt token {} is {}: the vocabulary has 0…{}", i,
                  request.prompt[i], vocab - 1);
  if (request.max_tokens < 0)
    return fail(ErrorCode::invalid_argument, "max_tokens is {}: must be at least 0", request.max_tokens);
  if (request.top_logprobs > kMostTopLogprobs)
    return fail(ErrorCode::invalid_argument, "{} alternatives asked for: at most {}", request.top_logprobs,
                kMostTopLogprobs);
  return {};
}

Result<> EngineImpl::check_device() const {
  if (parts_.backend.failed())
    return fail(ErrorCode::unavailable, "the device failed; the model will be loaded again: try later");
  if (parts_.options.device_threshold >= 100) return {};
  const auto memory = parts_.backend.memory();
  if (!memory || memory->total == 0) return {};
  const double used =
      100 * static_cast<double>(memory->total - memory->free) / static_cast<double>(memory->total);
  if (used <= parts_.options.device_threshold) return {};
  return fail(
      ErrorCode::unavailable,
      "{:.1f} % of the GPU's memory is in use, more than GPU_PRESSURE_THRESHOLD allows ({:g}); try later",
      used, parts_.options.device_threshold);
}

Result<uint64_t> EngineImpl::submit(Request request, EventSink sink) {
  QUERN_TRY_VOID(check(request));
  QUERN_TRY_VOID(check_device());
  std::vector<int32_t> prompt = request.prompt;
  const SequenceOptions options{.all_logits = request.prompt_logprobs,
                                .longest = static_cast<int64_t>(request.prompt.size()) + request.max_tokens,
                                .begun = request.answer_begun};
  const double time = now();
  auto active =
      std::make_unique<ActiveRequest>(std::move(request), std::move(sink), *parts_.tokenizer, vocab_, time);
  uint64_t ticket;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return fail(ErrorCode::unavailable, "the server is stopping: send the request to another");
    ticket = next_ticket_;
    QUERN_TRY_VOID(scheduler_.submit(ticket, std::move(prompt), options, time));
    ++next_ticket_;
    active->ticket = ticket;
    active_.emplace(ticket, std::move(active));
  }
  wake_.notify_one();
  return ticket;
}

void EngineImpl::cancel(uint64_t ticket) {
  const std::lock_guard lock(mutex_);
  const auto found = active_.find(ticket);
  if (found == active_.end()) return;
  found->second->cancelled.store(true, std::memory_order_release);
  any_cancelled_ = true;
}

void EngineImpl::stop(std::chrono::milliseconds grace) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  // Not Clock::now() + grace where that overflows.
  const auto left = std::min<Clock::duration>(grace, std::chrono::hours(24 * 365));
  deadline_ = std::min(deadline_, Clock::now() + left);
  drained_.wait(lock, [&] { return active_.empty(); });
}

EngineStats EngineImpl::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = counters_;
  stats.running = scheduler_.running();
  stats.waiting = scheduler_.waiting();
  stats.drafts_proposed = scheduler_.drafts().proposed;
  stats.drafts_accepted = scheduler_.drafts().accepted;
  stats.kv_blocks_total = scheduler_.blocks().total();
  stats.kv_blocks_free = scheduler_.blocks().free();
  return stats;
}

}  // namespace quern
