// How the configuration wants models loaded, for every command that answers.
#pragma once

#include "config/config.h"
#include "engine/served_model.h"

namespace quern {

/// The error names the variable that `backend` cannot follow.
Result<LoadOptions> load_options(const Config& config, const Backend& backend);

}  // namespace quern
