// Where tests find public data files that are not part of the project.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>

#include "core/source_dir.h"

namespace quern {

/// $QUERN_TEST_DATA, else ../shared/fixtures beside the source tree; empty when neither is a folder. Tests
/// that get nothing skip and say so.
inline std::optional<std::filesystem::path> test_data() {
  const char* chosen = std::getenv("QUERN_TEST_DATA");
  std::filesystem::path folder = chosen != nullptr ? chosen : QUERN_SOURCE_DIR "/../shared/fixtures";
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) return std::nullopt;
  return folder;
}

}  // namespace quern
