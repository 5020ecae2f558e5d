#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <limits>
#include <unordered_set>
#include <utility>

#include "core/file.h"
#include "formats/gguf.h"
#include "formats/gguf_parse.h"
#include "formats/printable.h"
#include "quant/quant.h"

namespace quern {
namespace {

using gguf::ValueType;

// Of a tensor, and of all: beyond any file system's limit.
constexpr uint64_t kMaxBytes = uint64_t{1} << 62;

/// Appends little-endian values to a string of bytes.
class Encoder {
 public:
  template <class T>
  void put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void put(ValueType type) { put(static_cast<uint32_t>(type)); }
  void put_string(std::string_view text) {
    put(static_cast<uint64_t>(text.size()));
    bytes_ += text;
  }
  void put_value(const Metadata::Value& value);
  void pad(uint64_t alignment) { bytes_.append((alignment - bytes_.size() % alignment) % alignment, '\0'); }
  const std::string& bytes() const { return bytes_; }

 private:
  void put_array(const Metadata::Array& array);
  template <class Narrow, class T>
  void put_items(ValueType type, const std::vector<T>& items) {
    put(type);
    put(static_cast<uint64_t>(items.size()));
    for (const T item : items) put(static_cast<Narrow>(item));
  }
  template <class Narrow, class Wide>
  void put_integers(ValueType narrow, ValueType wide, const std::vector<Wide>& items) {
    if (std::all_of(items.begin(), items.end(), fits<Narrow, Wide>))
      put_items<Narrow>(narrow, items);
    else
      put_items<Wide>(wide, items);
  }
  template <class Narrow, class Wide>
  static bool fits(Wide value) {
    return value >= std::numeric_limits<Narrow>::min() && value <= std::numeric_limits<Narrow>::max();
  }
  template <class Narrow, class Wide>
  void put_integer(ValueType narrow, ValueType wide, Wide value) {
    if (fits<Narrow>(value)) {
      put(narrow);
      put(static_cast<Narrow>(value));
    } else {
      put(wide);
      put(value);
    }
  }

  std::string bytes_;
};

void Encoder::put_array(const Metadata::Array& array) {
  if (const auto* bools = std::get_if<std::vector<bool>>(&array.items)) {
    put_items<uint8_t>(ValueType::boolean, *bools);
  } else if (const auto* uints = std::get_if<std::vector<uint64_t>>(&array.items)) {
    put_integers<uint32_t>(ValueType::u32, ValueType::u64, *uints);
  } else if (const auto* ints = std::get_if<std::vector<int64_t>>(&array.items)) {
    put_integers<int32_t>(ValueType::i32, ValueType::i64, *ints);
  } else if (const auto* numbers = std::get_if<std::vector<double>>(&array.items)) {
    put_items<float>(ValueType::f32, *numbers);
  } else if (const auto* strings = std::get_if<std::vector<std::string>>(&array.items)) {
    put(ValueType::string);
    put(static_cast<uint64_t>(strings->size()));
    for (const std::string& text : *strings) put_string(text);
  } else {
    const auto& arrays = std::get<std::vector<Metadata::Array>>(array.items);
    put(ValueType::array);
    put(static_cast<uint64_t>(arrays.size()));
    for (const Metadata::Array& inner : arrays) put_array(inner);
  }
}

void Encoder::put_value(const Metadata::Value& value) {
  if (const auto* flag = std::get_if<bool>(&value)) {
    put(ValueType::boolean);
    put(static_cast<uint8_t>(*flag));
  } else if (const auto* u = std::get_if<uint64_t>(&value)) {
    put_integer<uint32_t>(ValueType::u32, ValueType::u64, *u);
  } else if (const auto* i = std::get_if<int64_t>(&value)) {
    put_integer<int32_t>(ValueType::i32, ValueType::i64, *i);
  } else if (const auto* number = std::get_if<double>(&value)) {
    put(ValueType::f32);
    put(static_cast<float>(*number));
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    put(ValueType::string);
    put_string(*text);
  } else {
    put(ValueType::array);
    put_array(std::get<Metadata::Array>(value));
  }
}

Result<uint64_t> size_of(const GgufTensor& tensor, const std::string& path) {
  const std::string shown = printable(tensor.name);
  if (tensor.shape.empty() || tensor.shape.size() > 4)
    return fail(ErrorCode::invalid_argument, "{}: tensor {} has {} dimensions; 1 to 4 are possible", path,
                shown, tensor.shape.size());
  uint64_t rows = 1;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    const bool last = i + 1 == tensor.shape.size();
    if (tensor.shape[i] < 1 ||
        (!last && __builtin_mul_overflow(rows, static_cast<uint64_t>(tensor.shape[i]), &rows)))
      return fail(ErrorCode::invalid_argument, "{}: tensor {} has impossible dimensions", path, shown);
  }
  const auto bytes = tensor_bytes(tensor.dtype, rows, static_cast<uint64_t>(tensor.shape.back()));
  if (!bytes || *bytes > kMaxBytes)
    return fail(ErrorCode::invalid_argument, "{}: tensor {} cannot be stored as {}: its rows have {} weights",
                path, shown, dtype_name(tensor.dtype), tensor.shape.back());
  return *bytes;
}

/// A file that has a name only once it is whole. A process that is killed leaves nothing behind, where the
/// file system can do that.
class NamelessFile {
 public:
  NamelessFile() = default;
  NamelessFile(const NamelessFile&) = delete;
  NamelessFile& operator=(const NamelessFile&) = delete;
  ~NamelessFile() {
    if (!temporary_.empty()) unlink(temporary_.c_str());
  }

  Result<> open_beside(const std::filesystem::path& path) {
    path_ = path;
    file_ = Descriptor(open(folder().c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666));
    if (file_) return {};
    const std::string name = unique_name(path_.string());
    file_ = Descriptor(open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file_) return error("create");
    temporary_ = name;
    return {};
  }
  /// One that stays without a name.
  Result<> take(int file) {
    path_ = "a file in memory";
    file_ = Descriptor(fcntl(file, F_DUPFD_CLOEXEC, 0));
    named_ = false;
    if (!file_) return error("open");
    return {};
  }
  int fd() const { return file_.get(); }
  const std::filesystem::path& path() const { return path_; }
  bool named() const { return named_; }  // or to be
  /// Syncs it and gives it its name.
  Result<> publish() {
    if (!named_) return {};
    if (fsync(fd()) != 0) return error("sync");
    if (temporary_.empty()) {
      const std::string name = unique_name(path_.string());  // linking cannot replace a file; renaming can
      const std::string self = fmt::format("/proc/self/fd/{}", fd());
      if (linkat(AT_FDCWD, self.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0)
        return error("link");
      temporary_ = name;
    }
    file_ = Descriptor();
    if (rename(temporary_.c_str(), path_.c_str()) != 0) return error("rename");
    temporary_.clear();
    sync_folder(folder());  // without this the name could still be lost when the machine fails
    return {};
  }
  tl::unexpected<Error> error(std::string_view what) const { return io_error(path_, what, errno); }

 private:
  std::filesystem::path folder() const { return path_.has_parent_path() ? path_.parent_path() : "."; }

  std::filesystem::path path_;
  std::string temporary_;  // empty: it has no name
  Descriptor file_;
  bool named_ = true;
};

class FileWriter : public GgufWriter {
 public:
  explicit FileWriter(std::string name) : name_(std::move(name)) {}

  /// `open` opens the file, once it is known that all can be written.
  Result<> start(const Metadata& metadata, std::vector<GgufTensor> tensors,
                 const std::function<Result<>(NamelessFile&)>& open);
  Result<> write(std::span<const std::byte> data) override;
  Result<> write_at(size_t tensor, uint64_t offset, std::span<const std::byte> data) override;
  Result<> replace_metadata(const Metadata& metadata) override;
  Result<> finish() override;

 private:
  struct Slot {
    uint64_t at = 0;  // of the tensors' part
    uint64_t bytes = 0;
    std::atomic<uint64_t> written{0};
  };
  Result<> place_tensors();
  Result<std::string> header(const Metadata& metadata) const;

  const std::string name_;
  NamelessFile file_;
  uint64_t alignment_ = gguf::kDefaultAlignment;
  std::vector<GgufTensor> tensors_;
  std::unique_ptr<Slot[]> slots_;
  uint64_t header_bytes_ = 0;
  size_t current_ = 0;   // for `write`: the tensor that comes next or is being written
  uint64_t filled_ = 0;  // of the current tensor
};

Result<> FileWriter::place_tensors() {
  slots_ = std::make_unique<Slot[]>(tensors_.size());
  std::unordered_set<std::string_view> names;
  uint64_t offset = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const GgufTensor& tensor = tensors_[i];
    if (tensor.name.empty() || tensor.name.size() > gguf::kMaxName || !names.insert(tensor.name).second)
      return fail(ErrorCode::invalid_argument, "{}: tensor name {} is empty, too long or there twice", name_,
                  printable(tensor.name));
    QUERN_TRY(slots_[i].bytes, size_of(tensor, name_));
    slots_[i].at = offset;
    // Neither is above kMaxBytes, so the sum cannot wrap.
    offset = (offset + slots_[i].bytes + alignment_ - 1) / alignment_ * alignment_;
    if (offset > kMaxBytes)
      return fail(ErrorCode::invalid_argument, "{}: the tensors are too large for a file", name_);
  }
  return {};
}

Result<std::string> FileWriter::header(const Metadata& metadata) const {
  Encoder out;
  out.put(std::array<char, 4>{'G', 'G', 'U', 'F'});
  out.put(uint32_t{3});
  out.put(static_cast<uint64_t>(tensors_.size()));
  out.put(static_cast<uint64_t>(metadata.entries().size()));
  for (const auto& [key, value] : metadata.entries()) {
    if (key.empty() || key.size() > gguf::kMaxName)
      return fail(ErrorCode::invalid_argument, "{}: a key of {} bytes", name_, key.size());
    out.put_string(key);
    out.put_value(value);
  }
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const GgufTensor& tensor = tensors_[i];
    out.put_string(tensor.name);
    out.put(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t d = tensor.shape.size(); d-- > 0;) out.put(static_cast<uint64_t>(tensor.shape[d]));
    out.put(static_cast<uint32_t>(tensor.dtype));
    out.put(slots_[i].at);
  }
  out.pad(alignment_);
  return out.bytes();
}

Result<> FileWriter::start(const Metadata& metadata, std::vector<GgufTensor> tensors,
                           const std::function<Result<>(NamelessFile&)>& open) {
  tensors_ = std::move(tensors);
  if (metadata.contains("general.alignment")) {
    alignment_ = metadata.uint("general.alignment").value_or(0);
    if (alignment_ < 8 || alignment_ > gguf::kMaxAlignment || (alignment_ & (alignment_ - 1)) != 0)
      return fail(ErrorCode::invalid_argument, "{}: general.alignment must be a power of two from 8 to {}",
                  name_, gguf::kMaxAlignment);
  }
  QUERN_TRY_VOID(place_tensors());
  QUERN_TRY(const std::string bytes, header(metadata));
  QUERN_TRY_VOID(open(file_));
  header_bytes_ = bytes.size();
  uint64_t total = header_bytes_;
  if (!tensors_.empty()) {
    const Slot& last = slots_[tensors_.size() - 1];
    total += (last.at + last.bytes + alignment_ - 1) / alignment_ * alignment_;
  }
  // Room for all of it now, where the file system can promise that, instead of half-way.
  if (file_.named() && fallocate(file_.fd(), 0, 0, static_cast<off_t>(total)) != 0 && errno != EOPNOTSUPP &&
      errno != ENOSYS && errno != EINVAL)
    return file_.error(fmt::format("reserve {} bytes", total));
  // Zeros between the tensors, without writing them.
  if (ftruncate(file_.fd(), static_cast<off_t>(total)) != 0) return file_.error("write");
  return pwrite_all(file_.fd(), file_.path(), 0, std::as_bytes(std::span(bytes)));
}

Result<> FileWriter::replace_metadata(const Metadata& metadata) {
  QUERN_TRY(const std::string bytes, header(metadata));
  if (bytes.size() != header_bytes_)
    return fail(ErrorCode::internal, "{}: the metadata changed its size from {} to {} bytes", name_,
                header_bytes_, bytes.size());
  return pwrite_all(file_.fd(), file_.path(), 0, std::as_bytes(std::span(bytes)));
}

Result<> FileWriter::write_at(size_t tensor, uint64_t offset, std::span<const std::byte> data) {
  if (tensor >= tensors_.size() || offset > slots_[tensor].bytes ||
      data.size() > slots_[tensor].bytes - offset)
    return fail(ErrorCode::internal, "{}: {} bytes more than the tensors hold", name_, data.size());
  Slot& slot = slots_[tensor];
  QUERN_TRY_VOID(pwrite_all_and_flush(file_.fd(), file_.path(), header_bytes_ + slot.at + offset, data));
  slot.written.fetch_add(data.size(), std::memory_order_relaxed);
  return {};
}

Result<> FileWriter::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    const uint64_t room = current_ < tensors_.size() ? slots_[current_].bytes - filled_ : data.size();
    const auto part = static_cast<size_t>(std::min<uint64_t>(data.size(), room));
    QUERN_TRY_VOID(write_at(current_, filled_, data.first(part)));
    data = data.subspan(part);
    filled_ += part;
    if (filled_ < slots_[current_].bytes) continue;
    ++current_;
    filled_ = 0;
  }
  return {};
}

Result<> FileWriter::finish() {
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (slots_[i].written.load(std::memory_order_relaxed) != slots_[i].bytes)
      return fail(ErrorCode::internal, "{}: tensor {} was not written in full", name_,
                  printable(tensors_[i].name));
  return file_.publish();
}

}  // namespace

Result<std::unique_ptr<GgufWriter>> GgufWriter::create(const std::filesystem::path& path,
                                                       const Metadata& metadata,
                                                       std::vector<GgufTensor> tensors) {
  auto writer = std::make_unique<FileWriter>(path.string());
  QUERN_TRY_VOID(writer->start(metadata, std::move(tensors),
                               [&](NamelessFile& file) { return file.open_beside(path); }));
  return writer;
}

Result<std::unique_ptr<GgufWriter>> GgufWriter::create_in(int file, const Metadata& metadata,
                                                          std::vector<GgufTensor> tensors) {
  auto writer = std::make_unique<FileWriter>("a file in memory");
  QUERN_TRY_VOID(
      writer->start(metadata, std::move(tensors), [&](NamelessFile& own) { return own.take(file); }));
  return writer;
}

}  // namespace quern
