// Texts that commands measure with.
#pragma once

#include <fstream>
#include <iterator>
#include <string>

#include "core/result.h"

namespace quern {

inline Result<std::string> read_text_file(std::string_view command, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return fail(ErrorCode::not_found, "{}: {}: cannot be read: give a text file with --file", command, path);
  return std::string{std::istreambuf_iterator<char>(file), {}};
}

}  // namespace quern
