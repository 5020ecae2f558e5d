// Small helpers over the system's calls: an owned descriptor, whole files, directories made durable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/result.h"

namespace quern {

/// An open file, closed with its owner.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// "PATH: cannot DO: reason", with resource_exhausted for a full disk.
tl::unexpected<Error> io_error(const std::filesystem::path& path, std::string_view what, int error);

/// All of `data` at `offset` of an open file; `path` is for the error.
Result<> pwrite_all(int file, const std::filesystem::path& path, uint64_t offset,
                    std::span<const std::byte> data);
/// The same, and the disk begins with a large piece at once, unwaited for, so that the sync in the end has
/// little left to wait for.
Result<> pwrite_all_and_flush(int file, const std::filesystem::path& path, uint64_t offset,
                              std::span<const std::byte> data);

/// At most `most` bytes; empty when the file is not there, is larger, or is no regular file.
std::optional<std::string> read_small_file(const std::filesystem::path& path, size_t most);

/// Appears whole or not at all: written to `temporary` (on the same file system, nobody else's), synced,
/// renamed.
Result<> write_whole_file(const std::filesystem::path& path, const std::filesystem::path& temporary,
                          std::string_view content);

/// A name that no other process or thread uses; what a kill leaves of it does no harm in a folder that nobody
/// scans.
std::string unique_name(std::string_view prefix);

/// Makes a rename in `folder` survive a loss of power.
void sync_folder(const std::filesystem::path& folder);

Result<> make_folders(const std::filesystem::path& folder);

}  // namespace quern
