// quern serve: configuration → device → models → HTTP.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace quern {

/// Serves until SIGTERM or SIGINT, then lets running requests finish; a second signal ends them. `overrides`
/// are flags by the variable's name. Returns the exit status; an error is one line on stderr.
int serve_command(const std::map<std::string, std::string>& overrides, const std::filesystem::path& env_file,
                  bool env_required);

}  // namespace quern
