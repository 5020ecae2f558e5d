// A file mapped read-only into memory.
#pragma once

#include <sys/stat.h>

#include <csignal>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "core/result.h"

namespace quern {

/// Safe to read whatever becomes of the file. Where it is cut short (or its disk fails) under us, the kernel
/// answers a read with SIGBUS: a handler puts pages of zeros there, and `check` fails from then on. So
/// reading costs nothing and needs no care; who uses what was read asks `check` once, at the end.
///
/// (The other ways cost more: a copy takes memory of the model's size, reads instead of a mapping take it
/// twice for as long as they run, and neither helps while a model of many gigabytes is being loaded.)
class MappedFile {
 public:
  MappedFile() = default;
  /// not_found, io. An empty file maps to an empty span.
  static Result<MappedFile> open(const std::filesystem::path& path);
  /// The place of a file of `size` bytes that is still on its way: views can be made of all of it, but only
  /// its first bytes, `head`, may be read before `fill`. `name` is for messages.
  static Result<MappedFile> reserve(uint64_t size, std::span<const std::byte> head, const std::string& name);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// io when the file was cut short or written to since it was opened: what was read may be anything. (A file
  /// renamed over it, or its removal, does not matter: the mapping keeps the old one.) One fstat.
  Result<> check() const;
  /// Whole pages of `part` leave this process (the system may keep them, to be read again). Bytes of another
  /// file are left alone.
  void let_go(std::span<const std::byte> part) const;

  /// Puts the file in the place that was reserved for it; views stay what they are. corrupt: its size or its
  /// first bytes are not those that were announced.
  Result<> fill(const std::filesystem::path& path);
  /// The file is closed, so that its disk space can be freed; its place stays, not to be read. Fails as
  /// `check` does, for what was read until now.
  Result<> vacate();

 private:
  struct Guard;
  static Guard* guard(const std::byte* data, size_t size);
  static void on_bus_error(int signal, siginfo_t* info, void* context);

  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t head_ = 0;  // of a reserved place: bytes that are there
  int fd_ = -1;
  struct timespec written_ {};
  Guard* guard_ = nullptr;
  std::string path_;
};

}  // namespace quern
