// A lock between processes: flock on a file of its own, as Python's filelock takes it.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>

#include "core/file.h"
#include "core/result.h"

namespace quern {

/// Held while it lives; the system lets go of it when the process dies.
class FileLock {
 public:
  /// Waits until it is free; `waiting` is called once when another holds it. cancelled: stopped.
  static Result<FileLock> take(const std::filesystem::path& path, const std::stop_token& stop,
                               const std::function<void()>& waiting = {});
  /// Empty when another holds it.
  static Result<std::optional<FileLock>> try_take(const std::filesystem::path& path);

 private:
  explicit FileLock(Descriptor file) : file_(std::move(file)) {}
  Descriptor file_;
};

}  // namespace quern
