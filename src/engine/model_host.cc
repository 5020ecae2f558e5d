#include "engine/model_host.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <utility>

#include "core/log.h"
#include "engine/memory.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

/// `owner/repo:selector@tokenizer` → `owner/repo`. A drive or a port is not a selector: the colon must stand
/// in the last part of the path.
std::string_view without_selector(std::string_view id) {
  const size_t name = id.rfind('/') == std::string_view::npos ? 0 : id.rfind('/') + 1;
  const size_t at = id.find('@');  // the tokenizer's repo has a slash of its own
  if (at != std::string_view::npos) return without_selector(id.substr(0, at));
  return id.substr(0, id.find(':', name));
}

class ModelHostImpl final : public ModelHost {
 public:
  ModelHostImpl(Backend& backend, HostOptions options, EngineObserver* observer)
      : backend_(backend), options_(std::move(options)), observer_(observer) {
    for (const std::string& id : options_.models) entries_.push_back({.status = {.id = id}});
    loader_ = std::jthread([this](std::stop_token stop) { load_all(stop); });
  }

  ~ModelHostImpl() override {
    loader_.request_stop();
    loader_.join();
  }

  std::vector<ModelStatus> status() const override {
    const std::lock_guard lock(mutex_);
    std::vector<ModelStatus> result;
    for (const Entry& entry : entries_) result.push_back(entry.status);
    return result;
  }

  Result<std::shared_ptr<ServedModel>> get(std::string_view id) const override {
    const std::lock_guard lock(mutex_);
    QUERN_TRY(const Entry* entry, find(id));
    if (entry->model != nullptr) return entry->model;
    const ModelStatus& status = entry->status;
    if (status.state == ModelState::failed)
      return fail(ErrorCode::unavailable, "model {} could not be loaded: {}", status.id, status.error);
    if (status.state == ModelState::loading && status.bytes_total > 0)
      return fail(ErrorCode::unavailable, "model {} is loading ({} %): try again soon", status.id,
                  status.bytes_done * 100 / status.bytes_total);
    return fail(ErrorCode::unavailable, "model {} is not loaded yet: try again soon", status.id);
  }

  void stop(std::chrono::milliseconds grace) override {
    loader_.request_stop();
    std::vector<std::shared_ptr<ServedModel>> models;
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      for (const Entry& entry : entries_)
        if (entry.model != nullptr) models.push_back(entry.model);
    }
    std::vector<std::jthread> stops;  // side by side: the grace is one for all
    for (const auto& model : models) stops.emplace_back([&model, grace] { model->engine->stop(grace); });
  }

 private:
  struct Entry {
    ModelStatus status;
    std::shared_ptr<ServedModel> model;
  };

  /// With mutex_ held.
  Result<const Entry*> find(std::string_view id) const {
    if (entries_.empty()) return fail(ErrorCode::not_found, "no model is served: set LLM_ALLOWED_MODELS");
    if (id.empty()) return &entries_.front();
    for (const Entry& entry : entries_)
      if (entry.status.id == id) return &entry;
    const Entry* match = nullptr;
    bool ambiguous = false;
    for (const Entry& entry : entries_) {
      if (without_selector(entry.status.id) != id) continue;
      ambiguous |= match != nullptr;
      match = &entry;
    }
    if (match != nullptr && !ambiguous) return match;
    std::string served;
    for (const Entry& entry : entries_) served += (served.empty() ? "" : ", ") + entry.status.id;
    return fail(ErrorCode::not_found, "model {} {}; served: {}", id,
                ambiguous ? "is ambiguous" : "is not served", served);
  }

  void load_all(std::stop_token stop) {
    // One limit for all models: what earlier ones took is gone for later ones.
    uint64_t left = options_.memory_limit > 0 ? options_.memory_limit : available_memory() / 10 * 9;
    for (size_t i = 0; i < entries_.size() && !stop.stop_requested(); ++i) {
      HostOptions options = options_;
      options.memory_limit = std::max<uint64_t>(left, 1);
      auto model = load(i, options, stop);
      if (model) left -= std::min(left, (*model)->bytes);
      finish(i, std::move(model));
    }
  }

  Result<std::shared_ptr<ServedModel>> load(size_t index, const HostOptions& options,
                                            const std::stop_token& stop) {
    std::string id;
    {
      const std::lock_guard lock(mutex_);
      entries_[index].status.state = ModelState::loading;
      id = entries_[index].status.id;
    }
    ModelOptions model_options;
    const auto start = Clock::now();
    model_options.progress = [&](uint64_t done, uint64_t total) {
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      const std::lock_guard lock(mutex_);
      ModelStatus& status = entries_[index].status;
      status.bytes_done = done;
      status.bytes_total = total;
      if (done > 0)
        status.eta_s =
            seconds * static_cast<double>(total - std::min(done, total)) / static_cast<double>(done);
      return !stop.stop_requested();
    };
    try {
      return open_model(backend_, id, options, model_options, observer_);
    } catch (const std::exception& error) {  // no memory, most likely
      return fail(ErrorCode::resource_exhausted, "{}: cannot be loaded: {}", id, error.what());
    }
  }

  void finish(size_t index, Result<std::shared_ptr<ServedModel>> model) {
    bool stopped;
    {
      const std::lock_guard lock(mutex_);
      ModelStatus& status = entries_[index].status;
      if (model) {
        const ServedModel& served = **model;
        status.state = ModelState::ready;
        status.bytes_done = status.bytes_total = std::max(status.bytes_total, served.source->bytes());
        status.eta_s = 0;
        status.device = served.device;
        status.quantization = served.quantization;
        status.architecture = served.architecture;
        status.bytes = served.bytes;
        status.parameters = served.parameters;
        status.context = served.engine->context();
        entries_[index].model = *model;
      } else {
        status.state = ModelState::failed;
        status.eta_s = -1;
        status.error = model.error().message;
      }
      stopped = stopped_;
    }
    if (!model)
      log::error("model could not be loaded",
                 {{"model", options_.models[index]}, {"error", model.error().message}});
    if (model && stopped) (*model)->engine->stop(std::chrono::milliseconds(0));
  }

  Backend& backend_;
  const HostOptions options_;
  EngineObserver* const observer_;
  mutable std::mutex mutex_;
  std::vector<Entry> entries_;  // guarded by mutex_; their number never changes
  bool stopped_ = false;        // guarded by mutex_
  std::jthread loader_;
};

}  // namespace

std::unique_ptr<ModelHost> ModelHost::start(Backend& backend, HostOptions options, EngineObserver* observer) {
  return std::make_unique<ModelHostImpl>(backend, std::move(options), observer);
}

}  // namespace quern
