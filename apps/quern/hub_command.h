// What the commands about the hub share.
#pragma once

#include "command.h"
#include "hub/hub.h"

namespace quern {

/// The configuration and the hub's settings: the environment's, with what .env and the flags add.
struct HubSetup {
  Config config;
  HubOptions hub;
};
Result<HubSetup> load_hub(const CommonFlags& flags);
/// For those who have read the configuration already.
Result<HubOptions> hub_options(const CommonFlags& flags, const Config& config);

void add_pull(CLI::App& app, Action& action);
void add_list(CLI::App& app, Action& action);
void add_rm(CLI::App& app, Action& action);

}  // namespace quern
