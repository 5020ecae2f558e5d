// A checkpoint of the hub, quantized as its shards arrive.
#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "core/log.h"
#include "hub/weights.h"
#include "isq.h"
#include "job_progress.h"
#include "quantize/shard_arrivals.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// Most headers are smaller.
constexpr uint64_t kFirst = 128 << 10;
/// All headers of a checkpoint together, in memory.
constexpr uint64_t kMostHeads = 256 << 20;

/// One at a time is shown: the download, and after its end what is left of the quantizing.
class Progress {
 public:
  Progress(const std::string& id, const FetchProgress& progress, std::stop_source& stop)
      : progress_(progress), stop_(stop), downloading_("downloading", id), quantizing_("quantizing", id) {}

  void downloading(uint64_t done, uint64_t total) {
    const std::lock_guard lock(mutex_);
    if (total == 0 || downloaded_) return;
    downloading_.update(done, total);
    tell(done, total, ModelState::downloading);
  }
  void downloaded() {
    const std::lock_guard lock(mutex_);
    downloaded_ = true;
    downloading_.finish();
  }
  bool quantizing(uint64_t done, uint64_t total) {
    const std::lock_guard lock(mutex_);
    if (downloaded_) {
      quantizing_.update(done, total);
      tell(done, total, ModelState::loading);
    }
    return !stop_.stop_requested();
  }

 private:
  void tell(uint64_t done, uint64_t total, ModelState what) {
    if (progress_ && !progress_(done, total, what)) stop_.request_stop();
  }

  const FetchProgress& progress_;
  std::stop_source& stop_;
  std::mutex mutex_;
  // guarded by mutex_:
  JobProgress downloading_, quantizing_;
  bool downloaded_ = false;
};

class QuantizedFetch {
 public:
  QuantizedFetch(const Hub& hub, const Config& config, HubCheckpoint checkpoint,
                 const FetchProgress& progress, const std::stop_token& stop)
      : hub_(hub),
        config_(config),
        checkpoint_(std::move(checkpoint)),
        model_(checkpoint_.model),
        forward_(stop, [this] { stop_.request_stop(); }),
        progress_(model_.id, progress, stop_) {}

  Result<ModelFiles> run();

 private:
  Result<IsqSource> open();
  Result<safetensors::AbsentShard> head_of(size_t file, uint64_t& room);
  Result<> fetch(const std::function<Result<>(const std::string&)>& arrived, const std::stop_token& stop);
  Result<> wait_for_room(size_t file);
  void shard_done(const std::string& shard);
  void drop(const std::string& shard);
  void finish();

  const Hub& hub_;
  const Config& config_;
  const HubCheckpoint checkpoint_;
  const LocalModel& model_;
  std::stop_source stop_;
  std::stop_callback<std::function<void()>> forward_;
  Progress progress_;
  std::unique_ptr<WeightsFetcher> fetcher_;
  ArrivingModel arriving_;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  // guarded by mutex_:
  bool drop_early_ = false;        // the disk has no room for all shards at once
  std::vector<std::string> read_;  // shards that are quantized, as long as they stay
  size_t in_work_ = 0;             // shards that are here and not quantized yet

  std::unique_ptr<ShardArrivals> arrivals_;  // last: ends the download before all else goes
};

Result<ModelFiles> QuantizedFetch::run() {
  IsqContent content{model_.folder, model_.tokenizer_folder, {}};
  for (const HubWeights& weights : checkpoint_.weights) {
    content.weights[weights.name] = weights.etag;
    if (!weights.etag.empty()) continue;
    QUERN_TRY(content.weights[weights.name], file_identity(model_.folder / weights.name));
  }
  QUERN_TRY(const std::string key, content_key(content));
  IsqOptions options = isq_options(config_, model_.id);
  options.progress = [this](uint64_t done, uint64_t total) { return progress_.quantizing(done, total); };
  auto result = quantize_in_situ([this] { return open(); }, key, options, stop_.get_token());
  arrivals_.reset();
  if (!result) return fail(result.error());
  arriving_ = {};
  log_result(config_, model_.id, *result);
  finish();
  return ModelFiles(result->source->name());
}

/// The first bytes of a shard, as far as its header reaches.
Result<safetensors::AbsentShard> QuantizedFetch::head_of(size_t file, uint64_t& room) {
  const HubWeights& weights = checkpoint_.weights[file];
  const std::string name = model_.repo + "/" + weights.name;
  QUERN_TRY(std::string head, fetcher_->head(file, kFirst));
  QUERN_TRY(const uint64_t bytes, safetensors::head_bytes(head, name));
  if (bytes > weights.size || bytes > room)
    return fail(ErrorCode::corrupt, "{}: a header of {} bytes in a file of {}", name, bytes, weights.size);
  room -= bytes;
  if (bytes > head.size()) {
    QUERN_TRY(head, fetcher_->head(file, bytes));
  }
  head.resize(bytes);
  return safetensors::AbsentShard{weights.name, weights.size, std::move(head)};
}

/// Reads the headers of shards that are not here: what the result will be is known then.
Result<IsqSource> QuantizedFetch::open() {
  fetcher_ = std::make_unique<WeightsFetcher>(
      hub_.options(), checkpoint_,
      [this](const HubProgress& now) { progress_.downloading(now.bytes_done, now.bytes_total); },
      stop_.get_token());
  std::vector<safetensors::AbsentShard> absent;
  std::vector<std::string> here;
  uint64_t room = kMostHeads;
  for (size_t i = 0; i < checkpoint_.weights.size(); ++i) {
    if (checkpoint_.weights[i].here) {
      here.push_back(checkpoint_.weights[i].name);
      continue;
    }
    QUERN_TRY(safetensors::AbsentShard shard, head_of(i, room));
    absent.push_back(std::move(shard));
  }
  if (absent.empty()) progress_.downloaded();
  in_work_ = here.size();
  ModelFiles files(model_.folder.string());
  files.tokenizer_folder = model_.tokenizer_folder.string();
  QUERN_TRY(arriving_, open_arriving_model(files, absent));
  arrivals_ = std::make_unique<ShardArrivals>(
      *arriving_.shards, here, [this](const auto& arrived, const auto& stop) { return fetch(arrived, stop); },
      [this](const std::string& shard) { shard_done(shard); });
  return IsqSource{arriving_.source.get(), arrivals_.get()};
}

/// On a thread of its own.
Result<> QuantizedFetch::fetch(const std::function<Result<>(const std::string&)>& arrived,
                               const std::stop_token& stop) {
  const std::stop_callback forward(stop, [this] { stop_.request_stop(); });
  if (const auto room = fetcher_->check_space(); !room) {
    if (config_.isq_keep_source)
      return fail(room.error().code,
                  "{}; or let LLM_ISQ_KEEP_SOURCE=false drop each shard once it is quantized",
                  room.error().message);
    log::info("the disk has no room for all shards at once: each goes when it is quantized",
              {{"model", model_.id}, {"why", room.error().message}});
    const std::lock_guard lock(mutex_);
    drop_early_ = true;
    for (const std::string& shard : std::exchange(read_, {})) drop(shard);
  }
  for (size_t i = 0; i < checkpoint_.weights.size(); ++i) {
    if (checkpoint_.weights[i].here) continue;
    QUERN_TRY_VOID(wait_for_room(i));
    QUERN_TRY_VOID(fetcher_->fetch(i));
    {
      const std::lock_guard lock(mutex_);
      ++in_work_;
    }
    QUERN_TRY_VOID(arrived(checkpoint_.weights[i].name));
  }
  progress_.downloaded();
  return {};
}

/// Until shards that are quantized have made way, where they do.
Result<> QuantizedFetch::wait_for_room(size_t file) {
  std::unique_lock lock(mutex_);
  while (drop_early_) {
    auto room = fetcher_->check_space(file);
    if (room) break;
    if (in_work_ == 0) return room;
    const size_t before = in_work_;
    changed_.wait(lock, stop_.get_token(), [&] { return in_work_ != before; });
    if (stop_.stop_requested()) return fail(ErrorCode::cancelled, "{}: stopped", model_.repo);
  }
  return {};
}

void QuantizedFetch::shard_done(const std::string& shard) {
  const std::lock_guard lock(mutex_);
  --in_work_;
  if (drop_early_)
    drop(shard);
  else
    read_.push_back(shard);
  changed_.notify_all();
}

void QuantizedFetch::drop(const std::string& shard) {
  const auto it = std::ranges::find(checkpoint_.weights, shard, &HubWeights::name);
  drop_weights(hub_.options(), checkpoint_, static_cast<size_t>(it - checkpoint_.weights.begin()));
}

/// The result is kept: the cache remembers what it was made of, and the shards may go. What fails here costs
/// a later start some requests, and nothing else.
void QuantizedFetch::finish() {
  const auto is_here = [&](const HubWeights& weights) {
    std::error_code ignored;
    return fs::exists(model_.folder / weights.name, ignored);
  };
  const bool all_here = std::ranges::all_of(checkpoint_.weights, is_here);
  const auto remembered =
      remember_checkpoint(hub_.options(), checkpoint_, !all_here || !config_.isq_keep_source);
  if (!remembered)
    log::warn("the cache could not be written", {{"model", model_.id}, {"why", remembered.error().message}});
  if (config_.isq_keep_source || !remembered) return;
  uint64_t freed = 0;
  for (size_t i = 0; i < checkpoint_.weights.size(); ++i)
    freed += drop_weights(hub_.options(), checkpoint_, i);
  if (freed > 0) log::info("full-precision shards dropped", {{"model", model_.id}, {"bytes", freed}});
}

}  // namespace

Result<std::optional<ModelFiles>> fetch_quantized(const Hub& hub, const Config& config,
                                                  const std::string& reference, const FetchProgress& progress,
                                                  const std::stop_token& stop) {
  using Answer = std::optional<ModelFiles>;
  if (!config.enable_isq || !config.isq_cache) return Answer();
  QUERN_TRY(auto checkpoint, hub.checkpoint(reference, {}, stop));
  if (!checkpoint || !checkpoint->model.quantization.empty()) return Answer();
  QUERN_TRY(ModelFiles files, QuantizedFetch(hub, config, *std::move(checkpoint), progress, stop).run());
  return Answer(std::move(files));
}

}  // namespace quern
