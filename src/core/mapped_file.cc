#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <utility>

namespace quern {

/// What the signal handler knows of one mapping. Never freed, so that the handler may walk the list at any
/// time: a few words for every file that was ever opened.
struct MappedFile::Guard {
  const std::byte* const data;
  const size_t size;
  Guard* const next;
  std::atomic<bool> live{true};
  std::atomic<bool> cut{false};
};

namespace {

std::atomic<void*> guards{nullptr};  // MappedFile::Guard*
struct sigaction previous_handler {};
uintptr_t page_size = 4096;

/// As if this handler were not there.
void pass_on(int signal, siginfo_t* info, void* context) {
  if ((previous_handler.sa_flags & SA_SIGINFO) != 0)
    return previous_handler.sa_sigaction(signal, info, context);
  if (previous_handler.sa_handler != SIG_DFL && previous_handler.sa_handler != SIG_IGN)
    return previous_handler.sa_handler(signal);
  ::signal(signal, SIG_DFL);
  if (info->si_code <= 0) raise(signal);  // sent by somebody; an access happens again by itself
}

bool same_time(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

}  // namespace

/// Async-signal-safe: lock-free atomics and system calls only.
void MappedFile::on_bus_error(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (info->si_code <= 0) return pass_on(signal, info, context);  // not from an access
  for (auto* g = static_cast<Guard*>(guards.load(std::memory_order_acquire)); g != nullptr; g = g->next) {
    const auto begin = reinterpret_cast<uintptr_t>(g->data);
    if (address < begin || address >= begin + g->size || !g->live.load(std::memory_order_acquire)) continue;
    // All the rest at once: what lies behind the new end of a file is gone too.
    const uintptr_t page = address / page_size * page_size;
    g->cut.store(true, std::memory_order_release);
    // The system call itself: sanitizers take the library's function for a write to memory.
    const long zeros = syscall(SYS_mmap, page, begin + g->size - page, PROT_READ,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    errno = saved_errno;
    if (zeros != -1) return;
    break;
  }
  pass_on(signal, info, context);
}

MappedFile::Guard* MappedFile::guard(const std::byte* data, size_t size) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  auto* head = static_cast<Guard*>(guards.load(std::memory_order_relaxed));
  if (head == nullptr) {
    page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_handler);
  }
  auto* added = new Guard{data, size, head};
  guards.store(added, std::memory_order_release);
  return added;
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  MappedFile file;
  file.path_ = path.string();
  file.fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe would wait for its writer
  if (file.fd_ < 0) {
    const auto code = errno == ENOENT ? ErrorCode::not_found : ErrorCode::io;
    return fail(code, "{}: cannot open: {}", path.string(), std::strerror(errno));
  }
  struct stat info {};
  if (fstat(file.fd_, &info) != 0 || !S_ISREG(info.st_mode))
    return fail(ErrorCode::io, "{}: not a regular file", path.string());
  file.written_ = info.st_mtim;
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return file;
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd_, 0);
  if (data == MAP_FAILED)
    return fail(ErrorCode::io, "{}: cannot map: {}", path.string(), std::strerror(errno));
  file.data_ = static_cast<const std::byte*>(data);
  file.size_ = size;
  file.guard_ = guard(file.data_, size);
  return file;
}

Result<MappedFile> MappedFile::reserve(uint64_t size, std::span<const std::byte> head,
                                       const std::string& name) {
  MappedFile file;
  file.path_ = name;
  if (head.size() > size)
    return fail(ErrorCode::invalid_argument, "{}: {} bytes cannot begin with {}", name, size, head.size());
  if (size == 0) return file;
  void* data = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    return fail(ErrorCode::resource_exhausted, "{}: no place in memory for a file of {} bytes: {}", name,
                size, std::strerror(errno));
  file.data_ = static_cast<const std::byte*>(data);
  file.size_ = size;
  file.head_ = head.size();
  file.guard_ = guard(file.data_, size);
  if (head.empty()) return file;
  if (mprotect(data, head.size(), PROT_READ | PROT_WRITE) != 0)
    return fail(ErrorCode::resource_exhausted, "{}: no memory for its first {} bytes: {}", name, head.size(),
                std::strerror(errno));
  std::memcpy(data, head.data(), head.size());
  mprotect(data, head.size(), PROT_READ);
  return file;
}

Result<> MappedFile::fill(const std::filesystem::path& path) {
  QUERN_TRY(MappedFile whole, open(path));
  if (whole.size_ != size_ || (head_ > 0 && std::memcmp(whole.data_, data_, head_) != 0))
    return fail(ErrorCode::corrupt, "{}: another file than was announced ({} bytes, {} expected)",
                path.string(), whole.size_, size_);
  if (size_ == 0) return {};
  if (mmap(const_cast<std::byte*>(data_), size_, PROT_READ, MAP_SHARED | MAP_FIXED, whole.fd_, 0) ==
      MAP_FAILED)
    return fail(ErrorCode::io, "{}: cannot map: {}", path.string(), std::strerror(errno));
  std::swap(fd_, whole.fd_);
  written_ = whole.written_;
  path_ = whole.path_;
  return {};
}

Result<> MappedFile::vacate() {
  QUERN_TRY_VOID(check());
  if (fd_ < 0) return {};
  constexpr int kNothing = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  if (size_ > 0 && mmap(const_cast<std::byte*>(data_), size_, PROT_NONE, kNothing, -1, 0) == MAP_FAILED)
    return fail(ErrorCode::io, "{}: cannot unmap: {}", path_, std::strerror(errno));
  close(std::exchange(fd_, -1));
  head_ = 0;
  return {};
}

Result<> MappedFile::check() const {
  struct stat info {};
  if (fd_ < 0) return {};
  const bool cut = guard_ != nullptr && guard_->cut.load(std::memory_order_acquire);
  if (!cut && fstat(fd_, &info) == 0 && static_cast<size_t>(info.st_size) == size_ &&
      same_time(info.st_mtim, written_))
    return {};
  return fail(ErrorCode::io, "{}: the file was changed while it was in use: load the model again", path_);
}

void MappedFile::let_go(std::span<const std::byte> part) const {
  if (part.data() < data_ || part.data() + part.size() > data_ + size_) return;
  // Whole pages of the mapping, which begins with one.
  const auto first = static_cast<size_t>(part.data() - data_);
  const size_t begin = (first + page_size - 1) / page_size * page_size;
  const size_t end = (first + part.size()) / page_size * page_size;
  // What on_bus_error put there is private memory, and would be zeros again.
  if (begin < end) madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(head_, other.head_);
  std::swap(fd_, other.fd_);
  std::swap(written_, other.written_);
  std::swap(guard_, other.guard_);
  std::swap(path_, other.path_);
  return *this;
}

MappedFile::~MappedFile() {
  if (guard_ != nullptr) guard_->live.store(false, std::memory_order_release);
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
  if (fd_ >= 0) close(fd_);
}

}  // namespace quern
