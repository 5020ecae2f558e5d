#include "hub/partial_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <optional>

#include "hub/hash.h"

namespace quern::hub {
namespace {

namespace fs = std::filesystem;

/// A range goes to the journal when this much of it has gathered: what a kill may cost per connection.
constexpr uint64_t kJournalStep = 1 << 20;
/// The disk is asked to be done with what it has this often.
constexpr uint64_t kSyncBytes = 256 << 20;
constexpr auto kSyncTime = std::chrono::seconds(10);
constexpr size_t kMaxJournal = 16 << 20;

/// Names this run of the machine; empty where the system does not say.
const std::string& boot_id() {
  static const std::string id = [] {
    std::string text;
    const Descriptor file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
    char buffer[64];
    const ssize_t n = file ? read(file.get(), buffer, sizeof buffer) : 0;
    if (n > 0) text.assign(buffer, static_cast<size_t>(n));
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  }();
  return id;
}

std::string head_line(uint64_t size) { return fmt::format("quern-ranges 1 {} {}", size, boot_id()); }

std::optional<ByteRange> parse_range(std::string_view line, uint64_t size) {
  ByteRange range;
  const char* const begin = line.data();
  const char* const end = begin + line.size();
  const auto first = std::from_chars(begin, end, range.begin);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != ' ') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, range.end);
  if (second.ec != std::errc() || second.ptr != end) return std::nullopt;
  if (range.begin >= range.end || range.end > size) return std::nullopt;
  return range;
}

fs::path beside(const fs::path& blob, const char* ending) { return blob.string() + ending; }

bool is_regular(const fs::path& path, struct stat& info) {
  return lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace

PartialFile::PartialFile(fs::path blob, uint64_t size)
    : blob_(std::move(blob)),
      part_(beside(blob_, ".quern-part")),
      journal_path_(beside(blob_, ".quern-ranges")),
      size_(size),
      last_sync_(std::chrono::steady_clock::now()) {}

uint64_t PartialFile::bytes_on_disk(const fs::path& blob) {
  struct stat info {};
  for (const char* ending : {".quern-part", ".incomplete"})
    if (is_regular(beside(blob, ending), info)) return static_cast<uint64_t>(info.st_blocks) * 512;
  return 0;
}

void PartialFile::discard(const fs::path& blob) {
  for (const char* ending : {".quern-ranges.tmp", ".quern-ranges", ".quern-part"})
    unlink(beside(blob, ending).c_str());
}

/// The ranges of a journal that may be relied on; none when it is of another file or kind.
RangeSet PartialFile::read_journal() const {
  RangeSet relied, all;
  const auto text = read_small_file(journal_path_, kMaxJournal);
  if (!text) return relied;
  const std::string head = fmt::format("quern-ranges 1 {} ", size_);
  bool first = true, same_boot = false;
  for (size_t begin = 0; begin < text->size();) {
    const size_t end = text->find('\n', begin);
    if (end == std::string::npos) break;  // a line that was being written
    const std::string_view line = std::string_view(*text).substr(begin, end - begin);
    begin = end + 1;
    if (first) {
      if (!line.starts_with(head)) return relied;
      same_boot = !boot_id().empty() && line.substr(head.size()) == boot_id();
      first = false;
    } else if (line == "sync") {
      relied = all;
    } else if (const auto range = parse_range(line, size_)) {
      all.add(*range);
    } else {
      break;
    }
  }
  return same_boot ? all : relied;
}

/// Starts the journal anew with what is done so far.
Result<> PartialFile::write_journal() {
  std::string text = head_line(size_) + "\n";
  for (const ByteRange& range : done_.ranges()) text += fmt::format("{} {}\n", range.begin, range.end);
  text += "sync\n";
  QUERN_TRY_VOID(write_whole_file(journal_path_, beside(blob_, ".quern-ranges.tmp"), text));
  journal_ = Descriptor(::open(journal_path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW));
  if (!journal_) return io_error(journal_path_, "open", errno);
  return {};
}

/// A prefix that huggingface_hub has begun becomes ours. (Its lock is held, so it is not being written.)
Result<> PartialFile::adopt_prefix() {
  struct stat info {
  }, other{};
  const fs::path incomplete = beside(blob_, ".incomplete");
  if (is_regular(part_, other) || !is_regular(incomplete, info)) return {};
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size == 0 || size > size_) return {};
  // The journal first: without the part it is worth nothing, and the part without it is, too.
  done_ = RangeSet();
  done_.add({0, size});
  QUERN_TRY_VOID(write_journal());
  if (rename(incomplete.c_str(), part_.c_str()) != 0) {
    unlink(journal_path_.c_str());
    done_ = RangeSet();
  }
  return {};
}

Result<> PartialFile::open_files() {
  struct stat info {};
  const bool was_there = is_regular(part_, info);
  if (!was_there) unlink(part_.c_str());  // whatever else bears the name
  done_ = was_there ? read_journal() : RangeSet();
  // Bytes that the file does not have cannot have arrived.
  if (was_there && !done_.ranges().empty() && done_.ranges().back().end > static_cast<uint64_t>(info.st_size))
    done_ = RangeSet();
  continued_ = done_.total() > 0;
  const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (continued_ ? 0 : O_TRUNC);
  data_ = Descriptor(::open(part_.c_str(), flags, 0666));
  if (!data_) return io_error(part_, "open", errno);
  // Room for all of it now, where the file system can promise that, instead of half-way.
  if (size_ > 0 && fallocate(data_.get(), 0, 0, static_cast<off_t>(size_)) != 0 && errno != EOPNOTSUPP &&
      errno != ENOSYS && errno != EINVAL) {
    const int error = errno;
    if (!continued_) discard(blob_);
    return io_error(part_, fmt::format("reserve {} bytes", size_), error);
  }
  if (ftruncate(data_.get(), static_cast<off_t>(size_)) != 0) return io_error(part_, "resize", errno);
  return write_journal();
}

Result<PartialFile> PartialFile::open(const fs::path& blob, uint64_t size) {
  PartialFile file(blob, size);
  QUERN_TRY_VOID(file.adopt_prefix());
  QUERN_TRY_VOID(file.open_files());
  return file;
}

Result<> PartialFile::write(uint64_t offset, std::span<const std::byte> data) {
  QUERN_TRY_VOID(pwrite_all(data_.get(), part_, offset, data));
  const std::scoped_lock lock(*mutex_);
  done_.add({offset, offset + data.size()});
  pending_.add({offset, offset + data.size()});
  unsynced_ += data.size();
  return pending_.total() >= kJournalStep ? flush_pending() : Result<>{};
}

/// Appends what is pending in one write, so that a kill leaves at most a torn last line.
Result<> PartialFile::flush_pending() {
  const auto now = std::chrono::steady_clock::now();
  std::string lines;
  for (const ByteRange& range : pending_.ranges()) lines += fmt::format("{} {}\n", range.begin, range.end);
  pending_ = RangeSet();
  if (unsynced_ >= kSyncBytes || now - last_sync_ > kSyncTime) {
    if (fdatasync(data_.get()) != 0) return io_error(part_, "write", errno);
    lines += "sync\n";
    unsynced_ = 0;
    last_sync_ = now;
  }
  if (::write(journal_.get(), lines.data(), lines.size()) != static_cast<ssize_t>(lines.size()))
    return io_error(journal_path_, "write", errno == 0 ? ENOSPC : errno);
  return {};
}

Result<> PartialFile::start_over() {
  const std::scoped_lock lock(*mutex_);
  done_ = RangeSet();
  pending_ = RangeSet();
  continued_ = false;
  return write_journal();
}

Result<> PartialFile::finish(const std::stop_token& stop, const std::function<void(uint64_t)>& progress) {
  {
    const std::scoped_lock lock(*mutex_);
    if (!done_.covers(size_)) return fail(ErrorCode::internal, "{}: not all of it is there", part_.string());
    if (!pending_.ranges().empty()) QUERN_TRY_VOID(flush_pending());
  }
  if (auto same = check_hash(part_, blob_.filename().string(), stop, progress); !same) {
    if (same.error().code == ErrorCode::corrupt) QUERN_TRY_VOID(start_over());
    return same;
  }
  if (fsync(data_.get()) != 0) return io_error(part_, "write", errno);
  if (rename(part_.c_str(), blob_.c_str()) != 0) return io_error(blob_, "rename into place", errno);
  unlink(journal_path_.c_str());
  unlink(beside(blob_, ".incomplete").c_str());
  sync_folder(blob_.parent_path());
  return {};
}

}  // namespace quern::hub
