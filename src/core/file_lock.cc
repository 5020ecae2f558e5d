#include "core/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>

namespace quern {

namespace fs = std::filesystem;

Result<std::optional<FileLock>> FileLock::try_take(const fs::path& path) {
  while (true) {
    Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!file) return io_error(path, "open the lock", errno);
    if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return std::optional<FileLock>();
      if (errno == EINTR) continue;
      // A file system without locks: better to go on than to refuse.
      if (errno != ENOSYS && errno != EOPNOTSUPP && errno != ENOLCK) return io_error(path, "lock", errno);
    }
    // Some versions of Python's filelock remove the file when they let go: then ours is no lock any more.
    struct stat held {
    }, named{};
    if (fstat(file.get(), &held) == 0 && stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
        held.st_dev == named.st_dev)
      return std::optional<FileLock>(FileLock(std::move(file)));
  }
}

Result<FileLock> FileLock::take(const fs::path& path, const std::stop_token& stop,
                                const std::function<void()>& waiting) {
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock sleep(mutex);
  for (bool told = false;; told = true) {
    QUERN_TRY(auto lock, try_take(path));
    if (lock) return *std::move(lock);
    if (!told && waiting) waiting();
    stopped.wait_for(sleep, stop, std::chrono::milliseconds(200), [] { return false; });
    if (stop.stop_requested()) return fail(ErrorCode::cancelled, "stopped");
  }
}

}  // namespace quern
