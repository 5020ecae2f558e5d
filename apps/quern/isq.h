// LLM_ENABLE_ISQ: checkpoints are quantized while they load.
#pragma once

#include "config/config.h"
#include "engine/served_model.h"

namespace quern {

/// $XDG_CACHE_HOME/quern/isq, where results are kept.
std::filesystem::path isq_cache();

/// Empty unless the configuration asks for it.
TransformSource isq_of(const Config& config);

}  // namespace quern
