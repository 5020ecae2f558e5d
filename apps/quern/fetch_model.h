// Models from the hub, for commands that load one.
#pragma once

#include "engine/model_host.h"
#include "hub_command.h"

namespace quern {

/// For a server: fetches in the background, and quantizes what the configuration has quantized; the log has a
/// line now and then.
FetchModel fetch_through(Hub hub, const Config& config);

/// For a command: the reference itself where it is local, else the model is fetched (with a bar on a
/// terminal).
Result<ModelFiles> local_model(const CommonFlags& flags, const Config& config, const std::string& reference);

/// What engine's open_model_source takes.
ModelFiles files_of(const LocalModel& model);

}  // namespace quern
