#include "engine/model_host.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/log.h"
#include "engine/memory.h"
#include "engine/model_ids.h"
#include "engine/residency.h"
#include "engine/watchers.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

/// How often the loader looks whether a busy model has become idle.
constexpr auto kLook = std::chrono::milliseconds(20);
constexpr double kLongestPause = 300;  // seconds

void add(EngineStats& sum, const EngineStats& stats, bool live) {
  if (live) {
    sum.running += stats.running;
    sum.waiting += stats.waiting;
    sum.kv_blocks_total += stats.kv_blocks_total;
    sum.kv_blocks_free += stats.kv_blocks_free;
  }
  sum.prompt_tokens += stats.prompt_tokens;
  sum.cached_tokens += stats.cached_tokens;
  sum.generated_tokens += stats.generated_tokens;
  sum.drafts_proposed += stats.drafts_proposed;
  sum.drafts_accepted += stats.drafts_accepted;
  sum.preemptions += stats.preemptions;
  sum.steps += stats.steps;
}

/// What a model waits for.
enum class Turn { none, ahead, wanted };

/// A model of the list. Its state is `status.state`, which is shown. That alone does not say whose turn it
/// is: a model may be asked for in any state, and a thread that has it in hand may still wait for memory.
struct Entry {
  ModelStatus status;
  ModelFiles files;             // of a fetched model
  std::optional<bool> fetched;  // whether it is one; empty until that is decided

  // Who works on it. A thread takes it in hand in its turn (take), and lets go when it is ready, failed,
  // fetched, or without room (take_room).
  Turn turn = Turn::none;
  bool in_hand = false;
  double wanted_since = 0;  // of Turn::wanted
  double last_asked = 0;
  double retry_at = 0, pause = 0;  // of a failed one

  uint64_t bytes = 0;  // of the limit, from the decision to load it until its memory is free again

  // Of a model that is ready, until it is unloaded:
  std::shared_ptr<ServedModel> model;
  double ready_since = 0;
  bool draining = false;  // nobody gets it any more: it makes room for another, as long as that needs it
  bool stale = false;     // likewise, for good: its file or its device is not what it was. It is loaded again
};

class ModelHostImpl final : public ModelHost {
 public:
  ModelHostImpl(Backend& backend, HostOptions options, EngineObserver* observer)
      : backend_(backend),
        options_(std::move(options)),
        observer_(observer),
        limit_(options_.load.memory_limit > 0 ? options_.load.memory_limit
                                              : available_memory(backend) / 10 * 9) {
    for (const std::string& id : options_.models)
      entries_.push_back({.status = {.id = id}, .turn = Turn::ahead});
    if (options_.fetch) fetcher_ = std::jthread([this](const std::stop_token& stop) { fetch_all(stop); });
    loader_ = std::jthread([this](const std::stop_token& stop) { load_all(stop); });
  }

  ~ModelHostImpl() override {
    end_threads();
    if (fetcher_.joinable()) fetcher_.join();
    loader_.join();
  }

  std::vector<ModelStatus> status() const override {
    const std::lock_guard lock(mutex_);
    std::vector<ModelStatus> result;
    for (const Entry& entry : entries_) result.push_back(entry.status);
    return result;
  }

  Result<ModelStatus> status_of(std::string_view id) const override {
    QUERN_TRY(const size_t index, find_model_id(options_.models, id));
    const std::lock_guard lock(mutex_);
    return entries_[index].status;
  }

  Result<std::shared_ptr<ServedModel>> get(std::string_view id) override {
    QUERN_TRY(const size_t index, find_model_id(options_.models, id));
    std::unique_lock lock(mutex_);
    Entry& entry = entries_[index];
    const double now = seconds();
    if (stopped_) return fail(ErrorCode::unavailable, "the server is stopping");
    if (entry.status.state == ModelState::failed) {
      if (now < entry.retry_at)
        return fail(ErrorCode::unavailable, "model {} could not be loaded: {}", entry.status.id,
                    entry.status.error);
      entry.status.state = ModelState::absent;
    }
    entry.last_asked = now;
    if (entry.model != nullptr && backend_.failed() && !std::exchange(entry.stale, true))
      log::warn("the device failed: the model will be loaded again", {{"model", entry.status.id}});
    while (entry.model != nullptr && !entry.draining && !entry.stale) {
      std::shared_ptr<ServedModel> model = entry.model;
      lock.unlock();  // the system is asked about the file: a slow disk must not hold up everybody
      const auto unchanged = model->source->check();
      if (unchanged) return model;
      lock.lock();
      if (entry.model != model || std::exchange(entry.stale, true)) continue;
      log::warn("model file changed on disk: it will be loaded again", {{"model", entry.status.id}});
    }
    if (entry.turn != Turn::wanted) {
      entry.turn = Turn::wanted;
      entry.wanted_since = now;
      work_.notify_all();
    }
    return nullptr;
  }

  uint64_t watch(std::function<void()> changed) override { return watchers_.add(std::move(changed)); }
  void unwatch(uint64_t watcher) override { watchers_.remove(watcher); }

  EngineStats totals() const override {
    const std::lock_guard lock(mutex_);
    EngineStats sum = retired_;
    for (const Entry& entry : entries_)
      if (entry.model != nullptr) add(sum, entry.model->engine->stats(), true);
    return sum;
  }

  std::optional<DeviceMemory> device_memory() const override { return backend_.memory(); }
  std::optional<double> device_utilization() const override { return backend_.utilization(); }

  void stop(std::chrono::milliseconds grace) override {
    std::vector<std::shared_ptr<ServedModel>> models;
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      for (const Entry& entry : entries_)
        if (entry.model != nullptr) models.push_back(entry.model);
    }
    end_threads();
    watchers_.tell();
    std::vector<std::jthread> stops;  // side by side: the grace is one for all
    for (const auto& model : models) stops.emplace_back([&model, grace] { model->engine->stop(grace); });
  }

 private:
  static double seconds() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }
  static double seconds(std::chrono::milliseconds time) {
    return std::chrono::duration<double>(time).count();
  }

  void end_threads() {
    fetcher_.request_stop();
    loader_.request_stop();
  }

  static bool needs_fetch(const Entry& entry) { return *entry.fetched && entry.files.reference.empty(); }

  /// Once, and without the lock: the system is asked about files, and a disk that does not answer must not
  /// hold up whoever asks for the status.
  void decide_what_to_fetch() {
    for (size_t i = 0; i < options_.models.size(); ++i) {
      const bool fetched = options_.fetch && !is_local_model(options_.models[i], options_.load.model_path);
      const std::lock_guard lock(mutex_);
      entries_[i].fetched = fetched;
    }
    work_.notify_all();
  }

  /// The next entry whose turn it is: asked for, longest first; then those ahead of need, in order. With
  /// mutex_ held.
  std::optional<size_t> next(bool to_fetch) const {
    std::optional<size_t> best;
    for (size_t i = 0; i < entries_.size(); ++i) {
      const Entry& entry = entries_[i];
      if (entry.turn == Turn::none || entry.in_hand) continue;
      if (!entry.fetched || needs_fetch(entry) != to_fetch) continue;
      if (entry.model != nullptr && !(entry.stale && entry.model.use_count() == 1)) continue;
      const auto before = [](const Entry& a, const Entry& b) {
        if (a.turn != b.turn) return a.turn == Turn::wanted;
        return a.turn == Turn::wanted && a.wanted_since < b.wanted_since;
      };
      if (!best || before(entry, entries_[*best])) best = i;
    }
    return best;
  }

  /// Waits for work of one kind and takes it in hand; empty when the host ends.
  std::optional<size_t> take(const std::stop_token& stop, bool to_fetch) {
    std::unique_lock lock(mutex_);
    std::optional<size_t> index;
    const auto found = [&] { return (index = next(to_fetch)).has_value(); };
    const auto any_stale = [&] {
      return !to_fetch && std::ranges::any_of(entries_, [](const Entry& entry) {
        return entry.stale && entry.turn != Turn::none;
      });
    };
    while (!index && !stop.stop_requested()) {
      if (any_stale())  // nobody says when the last user lets go
        work_.wait_for(lock, stop, kLook, found);
      else
        work_.wait(lock, stop, [&] { return found() || any_stale(); });
    }
    if (stop.stop_requested()) return std::nullopt;
    Entry& entry = entries_[*index];
    entry.in_hand = true;
    if (entry.stale) unload(entry, lock);
    return index;
  }

  void fetch_all(const std::stop_token& stop) {
    while (const auto index = take(stop, true)) {
      try {
        fetch(*index, stop);
      } catch (const std::exception& error) {  // no memory, or a file system that fails
        failed(*index, {ErrorCode::resource_exhausted, fmt::format("cannot be fetched: {}", error.what())});
      }
    }
  }

  void fetch(size_t index, const std::stop_token& stop) {
    const std::string id = begin(index, ModelState::downloading);
    log::info("fetching model", {{"model", id}});
    auto files = options_.fetch(id, fetch_progress_of(index, stop), stop);
    if (stop.stop_requested()) return;
    if (!files) return failed(index, files.error());
    {
      const std::lock_guard lock(mutex_);
      Entry& entry = entries_[index];
      entry.files = *std::move(files);
      entry.in_hand = false;
    }
    work_.notify_all();
  }

  void load_all(const std::stop_token& stop) {
    decide_what_to_fetch();
    while (const auto index = take(stop, false)) {
      try {
        load(*index, stop);
      } catch (const std::exception& error) {  // no memory, most likely
        failed(*index, {ErrorCode::resource_exhausted, fmt::format("cannot be loaded: {}", error.what())});
      }
    }
  }

  void load(size_t index, const std::stop_token& stop) {
    const ModelFiles files = files_of(index);
    auto opened = open_model_source(files, options_.load.model_path);
    if (!opened) {
      forget_files(index);
      return failed(index, opened.error());
    }
    Result<ServedSource> served = ServedSource{*std::move(opened), {}};
    if (options_.load.transform) {
      const std::string id = begin(index, ModelState::loading);
      served = options_.load.transform(id, std::move(served->source), progress_of(index, stop), stop);
      if (stop.stop_requested()) return;
      if (!served) return failed(index, served.error());
    }
    if (const auto works = revive_device(stop); !works) return failed(index, works.error());
    const auto plan = plan_memory(backend_, *served->source, options_.load.engine, limit_, entries_.size());
    if (!plan) return failed(index, plan.error());
    if (!take_room(index, plan->total(), stop)) return;
    const std::string id = begin(index, ModelState::loading);
    if (served->fill) {
      const auto filled = served->fill(progress_of(index, stop), stop);
      if (stop.stop_requested()) return;
      if (!filled) return failed(index, filled.error());
      begin(index, ModelState::loading);
    }
    ModelOptions model_options;
    model_options.progress = progress_of(index, stop);
    auto model = open_model(backend_, id, std::move(served->source), *plan, options_.load.engine,
                            model_options, observer_);
    if (!model) return failed(index, model.error());
    ready(index, *std::move(model));
  }

  /// A device that has failed works again once nothing lies on it: its models are unloaded, and loaded again
  /// after the one that is being loaded.
  Result<> revive_device(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (backend_.failed() && !stop.stop_requested()) {
      Entry *idle = nullptr, *used = nullptr;
      for (Entry& entry : entries_) {
        if (entry.model == nullptr) continue;
        entry.stale = true;
        if (entry.turn == Turn::none) entry.turn = Turn::ahead;
        (entry.model.use_count() == 1 ? idle : used) = &entry;
      }
      if (idle != nullptr) {
        unload(*idle, lock);
      } else if (used != nullptr) {
        idle_.wait_for(lock, stop, kLook, [] { return false; });
      } else {
        lock.unlock();
        const std::lock_guard step(backend_.step_mutex);
        QUERN_TRY_VOID(backend_.restart());
        log::info("the device was restarted", {{"device", backend_.description()}});
        lock.lock();
      }
    }
    return {};
  }

  /// They were fetched once, and may have been removed since: the next try fetches them again.
  void forget_files(size_t index) {
    const std::lock_guard lock(mutex_);
    entries_[index].files = {};
  }

  ModelFiles files_of(size_t index) const {
    const std::lock_guard lock(mutex_);
    const Entry& entry = entries_[index];
    return entry.files.reference.empty() ? ModelFiles(entry.status.id) : entry.files;
  }

  /// Unloads others until `bytes` fit and counts them as taken. False: not now, or the host ends; the entry
  /// is out of hand then.
  bool take_room(size_t index, uint64_t bytes, const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (!stop.stop_requested()) {
      Entry& entry = entries_[index];
      const bool wanted = entry.turn == Turn::wanted;
      // Whoever asked has stopped waiting by now.
      const bool forgotten =
          wanted && seconds() - entry.last_asked > seconds(options_.load.engine.queue_timeout) + 1;
      Newcomer newcomer{.bytes = bytes};
      if (wanted) newcomer.wanted_since = entry.wanted_since;
      std::vector<size_t> indices;
      const std::vector<Resident> residents = list_residents(indices);
      const RoomDecision decision =
          make_room(residents, newcomer, limit_, seconds(), seconds(options_.patience));
      switch (decision.action) {
        case RoomAction::load:
          entry.bytes = bytes;
          stop_draining(lock);
          return true;
        case RoomAction::unload: {
          Entry& victim = entries_[indices[decision.victim]];
          log::info("model unloaded to make room", {{"model", victim.status.id}, {"bytes", victim.bytes}});
          unload(victim, lock);
          break;
        }
        case RoomAction::drain:
          entries_[indices[decision.victim]].draining = true;
          break;
        case RoomAction::refuse:
          lock.unlock();
          failed(index, {ErrorCode::resource_exhausted,
                         fmt::format("it takes {} bytes, but the limit is {}: raise LLM_MEMORY_LIMIT", bytes,
                                     limit_)});
          return false;
        case RoomAction::wait:
          if (!wanted || forgotten) {
            if (!wanted)
              log::info("model not loaded ahead of need: no room beside the others",
                        {{"model", entry.status.id}, {"bytes", bytes}});
            entry.status.state = ModelState::absent;
            entry.turn = Turn::none;
            entry.in_hand = false;
            stop_draining(lock);
            return false;
          }
          idle_.wait_for(lock, stop, kLook, [] { return false; });
          break;
      }
    }
    return false;
  }

  /// With mutex_ held. An engine counts as idle when nobody but the host holds its model: no request can be
  /// running then, and none can come, because only `get` hands models out.
  std::vector<Resident> list_residents(std::vector<size_t>& indices) const {
    std::vector<Resident> residents;
    for (size_t i = 0; i < entries_.size(); ++i) {
      const Entry& entry = entries_[i];
      if (entry.bytes == 0) continue;
      indices.push_back(i);
      residents.push_back({.bytes = entry.bytes,
                           .idle = entry.model != nullptr && entry.model.use_count() == 1,
                           .draining = entry.draining,
                           .last_used = entry.last_asked,
                           .ready_since = entry.ready_since});
    }
    return residents;
  }

  /// No victim is needed any more: those that were to go stay, and whoever waits for one of them asks again.
  /// Lets go of the lock.
  void stop_draining(std::unique_lock<std::mutex>& lock) {
    bool changed = false;
    for (Entry& entry : entries_) {
      if (!std::exchange(entry.draining, false)) continue;
      entry.turn = Turn::none;
      changed = true;
    }
    lock.unlock();
    if (changed) watchers_.tell();
  }

  /// Lets go of the lock for as long as it takes.
  void unload(Entry& entry, std::unique_lock<std::mutex>& lock) {
    std::shared_ptr<ServedModel> model = std::exchange(entry.model, nullptr);
    add(retired_, model->engine->stats(), false);
    entry.draining = entry.stale = false;
    entry.status.state = ModelState::absent;
    entry.status.bytes = entry.status.bytes_done = 0;
    entry.status.eta_s = -1;
    lock.unlock();
    model.reset();   // joins the engine's thread
    release_heap();  // what others are loaded into must be free, not only unused
    lock.lock();
    entry.bytes = 0;
  }

  LoadProgress progress_of(size_t index, const std::stop_token& stop) {
    return [this, index, stop, start = Clock::now()](uint64_t done, uint64_t total) {
      const double taken = std::chrono::duration<double>(Clock::now() - start).count();
      const std::lock_guard lock(mutex_);
      ModelStatus& status = entries_[index].status;
      status.bytes_done = done;
      status.bytes_total = total;
      if (done > 0)
        status.eta_s = taken * static_cast<double>(total - std::min(done, total)) / static_cast<double>(done);
      return !stop.stop_requested();
    };
  }

  FetchProgress fetch_progress_of(size_t index, const std::stop_token& stop) {
    return [this, index, stop, shown = ModelState::downloading, progress = progress_of(index, stop)](
               uint64_t done, uint64_t total, ModelState what) mutable {
      if (what != shown) {
        begin(index, shown = what);
        progress = progress_of(index, stop);
      }
      return progress(done, total);
    };
  }

  /// Returns the model's id.
  std::string begin(size_t index, ModelState state) {
    const std::lock_guard lock(mutex_);
    ModelStatus& status = entries_[index].status;
    status.state = state;
    status.error.clear();
    status.bytes_done = 0;
    status.eta_s = -1;
    return status.id;
  }

  void ready(size_t index, std::shared_ptr<ServedModel> model) {
    bool stopped;
    {
      const std::lock_guard lock(mutex_);
      Entry& entry = entries_[index];
      ModelStatus& status = entry.status;
      status.state = ModelState::ready;
      status.bytes_done = status.bytes_total = std::max(status.bytes_total, model->source->bytes());
      status.eta_s = 0;
      status.device = model->device;
      status.quantization = model->quantization;
      status.architecture = model->architecture;
      status.bytes = model->bytes;
      status.parameters = model->parameters;
      status.context = model->engine->context();
      entry.bytes = model->bytes;
      entry.turn = Turn::none;
      entry.in_hand = false;
      entry.pause = 0;
      entry.ready_since = seconds();
      entry.model = model;
      stopped = stopped_;
    }
    if (stopped) model->engine->stop(std::chrono::milliseconds(0));
    model.reset();  // before somebody is told: only the host's and the users' count
    watchers_.tell();
  }

  void failed(size_t index, const Error& error) {
    std::string id;
    {
      const std::lock_guard lock(mutex_);
      Entry& entry = entries_[index];
      entry.pause =
          entry.pause > 0 ? std::min(2 * entry.pause, kLongestPause) : seconds(options_.retry_pause);
      entry.retry_at = seconds() + entry.pause;
      entry.status.state = ModelState::failed;
      entry.status.eta_s = -1;
      entry.status.error = error.message;
      entry.bytes = 0;
      entry.turn = Turn::none;
      entry.in_hand = false;
      id = entry.status.id;
    }
    log::error("model could not be loaded", {{"model", id}, {"error", error.message}});
    watchers_.tell();
  }

  Backend& backend_;
  const HostOptions options_;
  EngineObserver* const observer_;
  const uint64_t limit_;
  Watchers watchers_;
  mutable std::mutex mutex_;
  // guarded by mutex_:
  std::vector<Entry> entries_;  // their number never changes
  EngineStats retired_;         // of unloaded models
  bool stopped_ = false;
  std::condition_variable_any work_, idle_;
  std::jthread fetcher_, loader_;
};

}  // namespace

std::unique_ptr<ModelHost> ModelHost::start(Backend& backend, HostOptions options, EngineObserver* observer) {
  return std::make_unique<ModelHostImpl>(backend, std::move(options), observer);
}

}  // namespace quern
