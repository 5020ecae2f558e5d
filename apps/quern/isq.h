// LLM_ENABLE_ISQ: checkpoints are quantized while they load.
#pragma once

#include <optional>

#include "config/config.h"
#include "engine/model_host.h"
#include "hub/hub.h"
#include "quantize/isq.h"

namespace quern {

/// $XDG_CACHE_HOME/quern/isq, where results are kept.
std::filesystem::path isq_cache();

/// As the configuration asks for it; without progress.
IsqOptions isq_options(const Config& config, const std::string& id);

/// For models that are here. Empty unless the configuration asks for ISQ.
TransformSource isq_of(const Config& config);

/// A checkpoint of the hub, quantized as its shards arrive: where the result is. (With LLM_ISQ_CACHE=false
/// the download ends first, and `isq_of` does the rest when there is memory for it.) Empty: the reference
/// means something that is not to be quantized, or not that way.
Result<std::optional<ModelFiles>> fetch_quantized(const Hub& hub, const Config& config,
                                                  const std::string& reference, const FetchProgress& progress,
                                                  const std::stop_token& stop);

/// What became of it, into the log.
void log_result(const Config& config, const std::string& id, const IsqResult& result);

}  // namespace quern
