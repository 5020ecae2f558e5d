#include "fetch_model.h"

#include <chrono>
#include <optional>

#include "core/log.h"
#include "isq.h"
#include "progress_bars.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kBetweenLines = std::chrono::seconds(5);

}  // namespace

ModelFiles files_of(const LocalModel& model) {
  if (model.kind == LocalModel::Kind::guide) return model.id;
  const bool gguf = model.kind == LocalModel::Kind::gguf;
  ModelFiles files((gguf ? model.files.front() : model.folder).string());
  files.tokenizer_folder = model.tokenizer_folder.string();
  return files;
}

FetchModel fetch_through(Hub hub, const Config& config) {
  return [hub = std::move(hub), config](const std::string& reference, const FetchProgress& progress,
                                        const std::stop_token& given) -> Result<ModelFiles> {
    QUERN_TRY(auto quantized, fetch_quantized(hub, config, reference, progress, given));
    if (quantized) return *std::move(quantized);
    std::stop_source stop;
    const std::stop_callback forward(given, [&stop] { stop.request_stop(); });
    auto last_line = Clock::now();
    const auto show = [&](const HubProgress& now) {
      if (!progress(now.bytes_done, now.bytes_total, ModelState::downloading)) stop.request_stop();
      if (now.phase != HubProgress::Phase::downloading || Clock::now() - last_line < kBetweenLines) return;
      last_line = Clock::now();
      log::info("downloading", {{"model", reference},
                                {"bytes", now.bytes_done},
                                {"of", now.bytes_total},
                                {"bytes_per_second", now.bytes_per_second},
                                {"seconds_left", now.eta_s}});
    };
    QUERN_TRY(const LocalModel model, hub.fetch(reference, show, stop.get_token()));
    return files_of(model);
  };
}

Result<ModelFiles> local_model(const CommonFlags& flags, const Config& config, const std::string& reference) {
  if (is_local_model(reference, config.model_path)) return reference;
  QUERN_TRY(HubOptions options, hub_options(flags, config));
  const Hub hub(std::move(options));
  if (const auto here = hub.find(reference)) return files_of(*here);
  std::optional<ProgressBars> bars;  // a reference that is wrong shows none
  const auto model = hub.fetch(reference, [&](const HubProgress& now) {
    if (!bars && now.phase != HubProgress::Phase::asking)
      bars.emplace(std::vector{reference}, /*quiet=*/false);
    if (bars) bars->update(0, now);
  });
  if (bars) bars->finish(0, model ? "here" : "failed");
  if (!model) return fail(model.error());
  return files_of(*model);
}

}  // namespace quern
