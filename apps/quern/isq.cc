#include "isq.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "core/log.h"
#include "job_progress.h"
#include "models/summary.h"
#include "quant/quant.h"
#include "quantize/isq_memory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

void log_quantized(const Config& config, const std::string& id, const WeightSource& result,
                   double encode_seconds, double seconds) {
  log::info("quantized", {{"model", id},
                          {"type", config.isq_type},
                          {"bytes", result.bytes()},
                          {"encode_seconds", fmt::format("{:.1f}", encode_seconds)},
                          {"seconds", std::round(seconds * 10) / 10}});
}

/// Into the cache, where it stays.
Result<ServedSource> through_cache(const Config& config, const std::string& id, const WeightSource& source,
                                   const LoadProgress& progress, const std::stop_token& stop) {
  JobProgress shown("quantizing", id);
  IsqOptions options = isq_options(config, id);
  options.progress = [&](uint64_t done, uint64_t total) {
    shown.update(done, total);
    return !progress || progress(done, total);
  };
  QUERN_TRY(const std::string content, content_key({source.name(), {}, {}}));
  QUERN_TRY(IsqResult result, quantize_in_situ([&] { return IsqSource{&source}; }, content, options, stop));
  shown.finish();
  log_result(config, id, result);
  return ServedSource{std::move(result.source), {}};
}

/// Into memory, once that is planned.
Result<ServedSource> in_memory(const Config& config, const std::string& id,
                               std::unique_ptr<WeightSource> source) {
  QUERN_TRY(auto laid_out, IsqInMemory::lay_out(std::move(source), isq_options(config, id)));
  IsqInMemory& memory = *laid_out;
  ServedSource served{std::move(laid_out), {}};
  served.fill = [&memory, config, id](const LoadProgress& progress, const std::stop_token& stop) -> Result<> {
    JobProgress shown("quantizing", id);
    IsqOptions options = isq_options(config, id);
    options.progress = [&](uint64_t done, uint64_t total) {
      shown.update(done, total);
      return !progress || progress(done, total);
    };
    QUERN_TRY(const QuantizeReport report, memory.fill(options, stop));
    shown.finish();
    log_quantized(config, id, memory, report.encode_seconds, report.total_seconds);
    return {};
  };
  return served;
}

}  // namespace

IsqOptions isq_options(const Config& config, const std::string& id) {
  IsqOptions options;
  options.type = find_quant(config.isq_type)->dtype;
  options.cache = isq_cache();
  options.id = id;
  options.threads = config.threads;
  options.waiting = [id] {
    log::info("another process quantizes this model: waiting for it", {{"model", id}});
  };
  return options;
}

void log_result(const Config& config, const std::string& id, const IsqResult& result) {
  if (result.from_cache)
    log::info("quantized before: taken from the cache", {{"model", id}, {"file", result.source->name()}});
  else
    log_quantized(config, id, *result.source, result.encode_seconds, result.total_seconds);
}

fs::path isq_cache() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && *xdg == '/') return fs::path(xdg) / "quern" / "isq";
  const char* home = std::getenv("HOME");
  return fs::path(home != nullptr ? home : "/tmp") / ".cache" / "quern" / "isq";
}

TransformSource isq_of(const Config& config) {
  if (!config.enable_isq) return {};
  return [config](const std::string& id, std::unique_ptr<WeightSource> source, const LoadProgress& progress,
                  const std::stop_token& stop) -> Result<ServedSource> {
    std::error_code ignored;
    if (!fs::is_directory(source->name(), ignored)) return ServedSource{std::move(source), {}};
    if (!is_full_precision(*source)) {
      log::info("ISQ leaves this model as it is: its weights are quantized already",
                {{"model", id}, {"quantization", quantization_name(*source)}});
      return ServedSource{std::move(source), {}};
    }
    if (!config.isq_cache) return in_memory(config, id, std::move(source));
    return through_cache(config, id, *source, progress, stop);
  };
}

}  // namespace quern
