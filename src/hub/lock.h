// The lock of a blob, as huggingface_hub takes it: flock on `.locks/models--owner--repo/{etag}.lock`.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <stop_token>

#include "core/result.h"
#include "hub/file.h"

namespace quern::hub {

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

}  // namespace quern::hub
