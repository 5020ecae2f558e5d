// The models of a server: which there are, in which state, and the engine of each.
//
//   absent → (downloading →) loading → ready → absent (unloaded to make room)
//                        ↘ failed → absent (when a request comes after a pause)
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/served_model.h"

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

/// Fetches a model that is not on this machine and returns where its files lie now. What it is about: bytes
/// of the download (ModelState::downloading), or of what is made of it (loading). Progress returns false to
/// cancel; so does the token, where there is no progress.
using FetchProgress = std::function<bool(uint64_t done, uint64_t total, ModelState what)>;
using FetchModel = std::function<Result<ModelFiles>(const std::string& reference, const FetchProgress&,
                                                    const std::stop_token& stop)>;

struct HostOptions {
  std::vector<std::string> models;  // LLM_ALLOWED_MODELS, in order
  LoadOptions load;
  FetchModel fetch;  // empty: local models only
  /// A failed model is tried again when a request comes after this pause, which doubles with each failure.
  std::chrono::milliseconds retry_pause{5000};
  /// See make_room.
  std::chrono::milliseconds patience{1000};
};

class ModelHost {
 public:
  /// Loads in the background, in order, as far as memory goes; returns at once.
  static std::unique_ptr<ModelHost> start(Backend& backend, HostOptions options,
                                          EngineObserver* observer = nullptr);
  virtual ~ModelHost() = default;

  virtual std::vector<ModelStatus> status() const = 0;
  /// The model, to be held while it is used; null: it is on its way now, because of this call or an earlier
  /// one, and `watch` says when to ask again. "" means the default model; ids match as configured, also
  /// without their selector where that is unambiguous. not_found names what is served; unavailable: it failed
  /// a moment ago (with the reason), or the host is stopping.
  virtual Result<std::shared_ptr<ServedModel>> get(std::string_view id) = 0;
  /// The status of the model that an id means.
  virtual Result<ModelStatus> status_of(std::string_view id) const = 0;
  /// Calls `changed`, from any thread, each time that asking again may give another answer; it must not block
  /// and not call the host. No call is under way when `unwatch` returns.
  virtual uint64_t watch(std::function<void()> changed) = 0;
  virtual void unwatch(uint64_t watcher) = 0;
  /// All engines together, those of unloaded models included.
  virtual EngineStats totals() const = 0;
  /// Of the device that the models are on, when it has memory of its own.
  virtual std::optional<DeviceMemory> device_memory() const { return std::nullopt; }
  virtual std::optional<double> device_utilization() const { return std::nullopt; }
  /// Stops every engine.
  virtual void stop(std::chrono::milliseconds grace) = 0;
};

}  // namespace quern
