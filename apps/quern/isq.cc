#include "isq.h"

#include <cstdlib>
#include <filesystem>

#include "core/log.h"
#include "job_progress.h"
#include "models/summary.h"
#include "quant/quant.h"
#include "quantize/isq.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

Result<std::unique_ptr<WeightSource>> quantize_checkpoint(const Config& config, const std::string& id,
                                                          std::unique_ptr<WeightSource> source,
                                                          const LoadProgress& progress,
                                                          const std::stop_token& stop) {
  const std::string folder = source->name();
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) return source;
  if (!is_full_precision(*source)) {
    log::info("ISQ leaves this model as it is: its weights are quantized already",
              {{"model", id}, {"quantization", quantization_name(*source)}});
    return source;
  }
  JobProgress shown("quantizing", id);
  IsqOptions options;
  options.type = find_quant(config.isq_type)->dtype;
  if (config.isq_cache) options.cache = isq_cache();
  options.id = id;
  options.threads = config.threads;
  options.progress = [&](uint64_t done, uint64_t total) {
    shown.update(done, total);
    return !progress || progress(done, total);
  };
  options.waiting = [&] {
    log::info("another process quantizes this model: waiting for it", {{"model", id}});
  };
  QUERN_TRY(IsqResult result, quantize_in_situ(*source, folder, options, stop));
  shown.finish();
  if (result.from_cache)
    log::info("quantized before: taken from the cache", {{"model", id}, {"file", result.source->name()}});
  else
    log::info("quantized", {{"model", id},
                            {"type", config.isq_type},
                            {"bytes", result.source->bytes()},
                            {"encode_seconds", fmt::format("{:.1f}", result.encode_seconds)},
                            {"seconds", fmt::format("{:.1f}", result.total_seconds)}});
  return std::move(result.source);
}

}  // namespace

fs::path isq_cache() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && *xdg == '/') return fs::path(xdg) / "quern" / "isq";
  const char* home = std::getenv("HOME");
  return fs::path(home != nullptr ? home : "/tmp") / ".cache" / "quern" / "isq";
}

TransformSource isq_of(const Config& config) {
  if (!config.enable_isq) return {};
  return [config](const std::string& id, std::unique_ptr<WeightSource> source, const LoadProgress& progress,
                  const std::stop_token& stop) {
    return quantize_checkpoint(config, id, std::move(source), progress, stop);
  };
}

}  // namespace quern
