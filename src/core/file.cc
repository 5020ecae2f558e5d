#include "core/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

namespace quern {

namespace fs = std::filesystem;

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

tl::unexpected<Error> io_error(const fs::path& path, std::string_view what, int error) {
  if (error == ENOSPC || error == EDQUOT)
    return fail(
        ErrorCode::resource_exhausted,
        "{}: cannot {}: the disk is full: free some space (quern list, quern rm) or use a folder on a larger "
        "disk (HF_HUB_CACHE, XDG_CACHE_HOME), then try again",
        path.string(), what);
  return fail(ErrorCode::io, "{}: cannot {}: {}", path.string(), what, std::strerror(error));
}

Result<> pwrite_all(int file, const fs::path& path, uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const size_t most = std::min<size_t>(data.size(), size_t{1} << 30);
    const ssize_t n = pwrite(file, data.data(), most, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, "write", errno);
    data = data.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

Result<> pwrite_all_and_flush(int file, const fs::path& path, uint64_t offset,
                              std::span<const std::byte> data) {
  constexpr size_t kLarge = 256 << 10;
  QUERN_TRY_VOID(pwrite_all(file, path, offset, data));
  if (data.size() >= kLarge)
    sync_file_range(file, static_cast<off_t>(offset), static_cast<off_t>(data.size()), SYNC_FILE_RANGE_WRITE);
  return {};
}

std::optional<std::string> read_small_file(const fs::path& path, size_t most) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info {};
  if (!file || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      static_cast<uint64_t>(info.st_size) > most)
    return std::nullopt;
  std::string content(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n =
        pread(file.get(), content.data() + done, content.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  content.resize(done);
  return content;
}

std::string unique_name(std::string_view prefix) {
  static std::atomic<unsigned> counter{0};
  return fmt::format("{}.{}.{}.tmp", prefix, getpid(), counter.fetch_add(1));
}

Result<> write_whole_file(const fs::path& path, const fs::path& temporary, std::string_view content) {
  unlink(temporary.c_str());
  {
    const Descriptor file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file) return io_error(temporary, "create", errno);
    size_t done = 0;
    while (done < content.size()) {
      const ssize_t n = write(file.get(), content.data() + done, content.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        const int error = errno;
        unlink(temporary.c_str());
        return io_error(temporary, "write", error);
      }
      done += static_cast<size_t>(n);
    }
    // Some file systems tell only now that there was no room.
    if (fsync(file.get()) != 0) {
      const int error = errno;
      unlink(temporary.c_str());
      return io_error(temporary, "write", error);
    }
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(temporary.c_str());
    return io_error(path, "rename into place", error);
  }
  sync_folder(path.parent_path());
  return {};
}

void sync_folder(const fs::path& folder) {
  const Descriptor directory(open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory) fsync(directory.get());
}

Result<> make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return io_error(folder, "make the folder", error.value());
  return {};
}

}  // namespace quern
