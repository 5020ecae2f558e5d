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

void add_pull(CommandLine& line);
void add_list(CommandLine& line);
void add_rm(CommandLine& line);

}  // namespace quern
