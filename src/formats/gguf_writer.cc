#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <unordered_set>
#include <utility>

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

class FileWriter : public GgufWriter {
 public:
  FileWriter(std::filesystem::path path, std::filesystem::path temporary, int fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}
  ~FileWriter() override {
    if (fd_ >= 0) close(fd_);
    if (!finished_) unlink(temporary_.c_str());
  }

  Result<> start(const Metadata& metadata, std::vector<GgufTensor> tensors);
  Result<> write(std::span<const std::byte> data) override;
  Result<> finish() override;

 private:
  Result<> write_all(std::span<const std::byte> data);
  tl::unexpected<Error> io_error(std::string_view what) const {
    return fail(ErrorCode::io, "{}: cannot {}: {}", temporary_.string(), what, std::strerror(errno));
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_;
  bool finished_ = false;
  uint64_t alignment_ = gguf::kDefaultAlignment;
  std::vector<GgufTensor> tensors_;
  std::vector<uint64_t> sizes_;
  size_t current_ = 0;    // the tensor that comes next or is being written
  uint64_t written_ = 0;  // of the current tensor
};

Result<> FileWriter::write_all(std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd_, data.data(), std::min<size_t>(data.size(), size_t{1} << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error("write");
    data = data.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<> FileWriter::start(const Metadata& metadata, std::vector<GgufTensor> tensors) {
  tensors_ = std::move(tensors);
  if (metadata.contains("general.alignment")) {
    alignment_ = metadata.uint("general.alignment").value_or(0);
    if (alignment_ < 8 || alignment_ > gguf::kMaxAlignment || (alignment_ & (alignment_ - 1)) != 0)
      return fail(ErrorCode::invalid_argument, "{}: general.alignment must be a power of two from 8 to {}",
                  path_.string(), gguf::kMaxAlignment);
  }
  Encoder out;
  out.put(std::array<char, 4>{'G', 'G', 'U', 'F'});
  out.put(uint32_t{3});
  out.put(static_cast<uint64_t>(tensors_.size()));
  out.put(static_cast<uint64_t>(metadata.entries().size()));
  for (const auto& [key, value] : metadata.entries()) {
    if (key.empty() || key.size() > gguf::kMaxName)
      return fail(ErrorCode::invalid_argument, "{}: a key of {} bytes", path_.string(), key.size());
    out.put_string(key);
    out.put_value(value);
  }
  uint64_t offset = 0;
  std::unordered_set<std::string_view> names;
  for (const GgufTensor& tensor : tensors_) {
    if (tensor.name.empty() || tensor.name.size() > gguf::kMaxName || !names.insert(tensor.name).second)
      return fail(ErrorCode::invalid_argument, "{}: tensor name {} is empty, too long or there twice",
                  path_.string(), printable(tensor.name));
    QUERN_TRY(const uint64_t bytes, size_of(tensor, path_.string()));
    sizes_.push_back(bytes);
    out.put_string(tensor.name);
    out.put(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) out.put(static_cast<uint64_t>(tensor.shape[i]));
    out.put(static_cast<uint32_t>(tensor.dtype));
    out.put(offset);
    // Neither is above kMaxBytes, so the sum cannot wrap.
    offset = (offset + bytes + alignment_ - 1) / alignment_ * alignment_;
    if (offset > kMaxBytes)
      return fail(ErrorCode::invalid_argument, "{}: the tensors are too large for a file", path_.string());
  }
  out.pad(alignment_);
  return write_all(std::as_bytes(std::span(out.bytes())));
}

Result<> FileWriter::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    if (current_ == tensors_.size())
      return fail(ErrorCode::internal, "{}: {} bytes more than the tensors hold", path_.string(),
                  data.size());
    const auto part = static_cast<size_t>(std::min<uint64_t>(data.size(), sizes_[current_] - written_));
    QUERN_TRY_VOID(write_all(data.first(part)));
    data = data.subspan(part);
    written_ += part;
    if (written_ < sizes_[current_]) continue;
    static constexpr std::byte kZeros[4096] = {};
    uint64_t padding = (alignment_ - written_ % alignment_) % alignment_;
    while (padding != 0) {
      const auto step = static_cast<size_t>(std::min<uint64_t>(padding, sizeof(kZeros)));
      QUERN_TRY_VOID(write_all({kZeros, step}));
      padding -= step;
    }
    ++current_;
    written_ = 0;
  }
  return {};
}

Result<> FileWriter::finish() {
  if (current_ != tensors_.size())
    return fail(ErrorCode::internal, "{}: tensor {} was not written in full", path_.string(),
                printable(tensors_[current_].name));
  if (fsync(fd_) != 0) return io_error("sync");
  if (close(std::exchange(fd_, -1)) != 0) return io_error("close");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) return io_error("rename");
  finished_ = true;
  // Without this the name could still be lost when the machine fails.
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return io_error("sync its folder");
  const int synced = fsync(fd);
  const int error = errno;
  close(fd);
  errno = error;
  // Some file systems cannot sync folders; they say EINVAL.
  if (synced != 0 && error != EINVAL) return io_error("sync its folder");
  return {};
}

}  // namespace

Result<std::unique_ptr<GgufWriter>> GgufWriter::create(const std::filesystem::path& path,
                                                       const Metadata& metadata,
                                                       std::vector<GgufTensor> tensors) {
  static std::atomic<unsigned> counter{0};
  const std::filesystem::path temporary =
      path.string() + fmt::format(".{}-{}.tmp", getpid(), counter.fetch_add(1, std::memory_order_relaxed));
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) return fail(ErrorCode::io, "{}: cannot create: {}", temporary.string(), std::strerror(errno));
  auto writer = std::make_unique<FileWriter>(path, temporary, fd);
  QUERN_TRY_VOID(writer->start(metadata, std::move(tensors)));
  return writer;
}

}  // namespace quern
