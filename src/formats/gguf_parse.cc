#include "formats/gguf_parse.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "formats/printable.h"
#include "quant/quant.h"

namespace quern::gguf {
namespace {

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  Result<File> run();

 private:
  size_t left() const { return bytes_.size() - at_; }

  template <class T>
  Result<T> read(std::string_view what);
  Result<std::string> read_string(std::string_view what, size_t longest);
  /// Fails unless `count` items of at least `least` bytes each can still follow, and charges the memory that
  /// they will take.
  Result<> reserve(uint64_t count, size_t least, size_t memory, std::string_view what);

  Result<> read_metadata(uint64_t count);
  Result<Metadata::Value> read_value(ValueType type, std::string_view key);
  Result<Metadata::Array> read_array(std::string_view key, int depth);
  template <class T, class Wide>
  Result<std::vector<Wide>> read_numbers(uint64_t count, std::string_view key);
  Result<uint64_t> alignment() const;

  struct Placed {
    RawTensor tensor;
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  Result<> read_tensors(uint64_t count);
  Result<Placed> read_tensor(uint64_t index);
  Result<> place(std::vector<Placed>& tensors);

  template <class... Args>
  auto corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return fail(ErrorCode::corrupt, "{}: {}", name_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::span<const std::byte> bytes_;
  const std::string& name_;
  size_t at_ = 0;
  uint64_t memory_ = 0;
  File file_;
};

template <class T>
Result<T> Parser::read(std::string_view what) {
  if (left() < sizeof(T))
    return corrupt("truncated at byte {}, in {}: download it again", bytes_.size(), what);
  T value;
  std::memcpy(&value, bytes_.data() + at_, sizeof(T));
  at_ += sizeof(T);
  return value;
}

Result<std::string> Parser::read_string(std::string_view what, size_t longest) {
  const size_t start = at_;
  QUERN_TRY(const uint64_t length, read<uint64_t>(what));
  if (length > longest)
    return corrupt("{} at byte {} claims {} bytes; at most {} are allowed", what, start, length, longest);
  if (length > left())
    return corrupt(
        "{} at byte {} claims {} bytes, {} more than the file has left: it is truncated or damaged", what,
        start, length, length - left());
  QUERN_TRY_VOID(reserve(length, 1, 1, what));
  std::string text(reinterpret_cast<const char*>(bytes_.data()) + at_, length);
  at_ += length;
  return text;
}

Result<> Parser::reserve(uint64_t count, size_t least, size_t memory, std::string_view what) {
  if (count > left() / least)
    return corrupt(
        "{} at byte {} claims {} items, which need {} bytes or more each, but the file has {} left: it is "
        "truncated or damaged",
        what, at_, count, least, left());
  if (memory_ > kMaxParsedBytes || count > (kMaxParsedBytes - memory_) / memory)
    return corrupt("{} at byte {} makes the metadata larger than {} MiB", what, at_, kMaxParsedBytes >> 20);
  memory_ += count * memory;
  return {};
}

template <class T, class Wide>
Result<std::vector<Wide>> Parser::read_numbers(uint64_t count, std::string_view key) {
  QUERN_TRY_VOID(reserve(count, sizeof(T), sizeof(Wide), key));
  std::vector<Wide> out(count);
  for (uint64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes_.data() + at_ + i * sizeof(T), sizeof(T));
    out[i] = static_cast<Wide>(value);  // NOLINT(bugprone-signed-char-misuse): a number, not a character
  }
  at_ += count * sizeof(T);
  return out;
}

/// Wraps a Result of a vector as a Result of an array.
template <class T>
Result<Metadata::Array> as_array(Result<std::vector<T>> items) {
  if (!items) return fail(std::move(items).error());
  return Metadata::Array{std::move(*items)};
}

Result<Metadata::Array> Parser::read_array(std::string_view key, int depth) {
  if (depth > kMaxArrayDepth) return corrupt("{}: arrays are nested more than {} deep", key, kMaxArrayDepth);
  QUERN_TRY(const auto type, read<uint32_t>(key));
  QUERN_TRY(const auto count, read<uint64_t>(key));
  switch (static_cast<ValueType>(type)) {
    case ValueType::u8:
      return as_array(read_numbers<uint8_t, uint64_t>(count, key));
    case ValueType::u16:
      return as_array(read_numbers<uint16_t, uint64_t>(count, key));
    case ValueType::u32:
      return as_array(read_numbers<uint32_t, uint64_t>(count, key));
    case ValueType::u64:
      return as_array(read_numbers<uint64_t, uint64_t>(count, key));
    case ValueType::i8:
      return as_array(read_numbers<int8_t, int64_t>(count, key));
    case ValueType::i16:
      return as_array(read_numbers<int16_t, int64_t>(count, key));
    case ValueType::i32:
      return as_array(read_numbers<int32_t, int64_t>(count, key));
    case ValueType::i64:
      return as_array(read_numbers<int64_t, int64_t>(count, key));
    case ValueType::f32:
      return as_array(read_numbers<float, double>(count, key));
    case ValueType::f64:
      return as_array(read_numbers<double, double>(count, key));
    case ValueType::boolean: {
      QUERN_TRY_VOID(reserve(count, 1, 1, key));
      std::vector<bool> items(count);
      for (uint64_t i = 0; i < count; ++i) items[i] = bytes_[at_ + i] != std::byte{0};
      at_ += count;
      return Metadata::Array{std::move(items)};
    }
    case ValueType::string: {
      QUERN_TRY_VOID(reserve(count, sizeof(uint64_t), sizeof(std::string), key));
      std::vector<std::string> items;
      items.reserve(count);
      for (uint64_t i = 0; i < count; ++i) {
        QUERN_TRY(std::string item, read_string(key, bytes_.size()));
        items.push_back(std::move(item));
      }
      return Metadata::Array{std::move(items)};
    }
    case ValueType::array: {
      QUERN_TRY_VOID(reserve(count, 12, sizeof(Metadata::Array), key));
      std::vector<Metadata::Array> items;
      items.reserve(count);
      for (uint64_t i = 0; i < count; ++i) {
        QUERN_TRY(Metadata::Array item, read_array(key, depth + 1));
        items.push_back(std::move(item));
      }
      return Metadata::Array{std::move(items)};
    }
  }
  return corrupt("{}: an array of unknown type {}", key, type);
}

template <class Wide, class T>
Result<Metadata::Value> widen(Result<T> value) {
  if (!value) return fail(std::move(value).error());
  return Metadata::Value(static_cast<Wide>(*value));
}

Result<Metadata::Value> Parser::read_value(ValueType type, std::string_view key) {
  switch (type) {
    case ValueType::u8:
      return widen<uint64_t>(read<uint8_t>(key));
    case ValueType::u16:
      return widen<uint64_t>(read<uint16_t>(key));
    case ValueType::u32:
      return widen<uint64_t>(read<uint32_t>(key));
    case ValueType::u64:
      return widen<uint64_t>(read<uint64_t>(key));
    case ValueType::i8:
      return widen<int64_t>(read<int8_t>(key));
    case ValueType::i16:
      return widen<int64_t>(read<int16_t>(key));
    case ValueType::i32:
      return widen<int64_t>(read<int32_t>(key));
    case ValueType::i64:
      return widen<int64_t>(read<int64_t>(key));
    case ValueType::f32:
      return widen<double>(read<float>(key));
    case ValueType::f64:
      return widen<double>(read<double>(key));
    case ValueType::boolean:
      return widen<bool>(read<uint8_t>(key));
    case ValueType::string: {
      QUERN_TRY(std::string text, read_string(key, bytes_.size()));
      return Metadata::Value(std::move(text));
    }
    case ValueType::array: {
      QUERN_TRY(Metadata::Array array, read_array(key, 1));
      return Metadata::Value(std::move(array));
    }
  }
  return corrupt("{}: a value of unknown type {}", key, static_cast<uint32_t>(type));
}

Result<> Parser::read_metadata(uint64_t count) {
  // A key of one byte with a one-byte value: 8 + 1 + 4 + 1.
  QUERN_TRY_VOID(reserve(count, 14, sizeof(std::pair<std::string, Metadata::Value>) * 2, "the metadata"));
  for (uint64_t i = 0; i < count; ++i) {
    const size_t start = at_;
    const std::string what = fmt::format("metadata key {} of {}", i + 1, count);
    QUERN_TRY(std::string key, read_string(what, kMaxName));
    if (key.empty()) return corrupt("{} at byte {} is empty", what, start);
    const std::string shown = printable(key);
    QUERN_TRY(const auto type, read<uint32_t>(shown));
    QUERN_TRY(Metadata::Value value, read_value(static_cast<ValueType>(type), shown));
    Metadata& target = key.starts_with("split.") ? file_.split : file_.metadata;
    if (!target.add(std::move(key), std::move(value))) return corrupt("metadata key {} appears twice", shown);
  }
  return {};
}

Result<uint64_t> Parser::alignment() const {
  if (!file_.metadata.contains("general.alignment")) return kDefaultAlignment;
  const auto value = file_.metadata.uint("general.alignment");
  if (!value || *value < 8 || *value > kMaxAlignment || (*value & (*value - 1)) != 0)
    return corrupt("general.alignment is {}; it must be a power of two from 8 to {}",
                   value ? fmt::format("{}", *value) : "not a positive integer", kMaxAlignment);
  return *value;
}

Result<Parser::Placed> Parser::read_tensor(uint64_t index) {
  Placed placed;
  RawTensor& tensor = placed.tensor;
  QUERN_TRY(tensor.name, read_string(fmt::format("the name of tensor {}", index), kMaxName));
  if (tensor.name.empty()) return corrupt("tensor {} has no name", index);
  const std::string what = fmt::format("tensor {}", printable(tensor.name));
  QUERN_TRY(const auto dims, read<uint32_t>(what));
  if (dims < 1 || dims > 4) return corrupt("{} has {} dimensions; 1 to 4 are possible", what, dims);
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dims; ++i) {
    QUERN_TRY(const auto size, read<uint64_t>(what));
    if (size == 0) return corrupt("{} has a dimension of 0", what);
    if (__builtin_mul_overflow(elements, size, &elements) || elements > INT64_MAX)
      return corrupt("{} has impossible dimensions: their product overflows", what);
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto cols = static_cast<uint64_t>(tensor.shape.back());
  QUERN_TRY(const auto type, read<uint32_t>(what));
  tensor.dtype = static_cast<DType>(type);
  QUERN_TRY(placed.offset, read<uint64_t>(what));
  const QuantInfo* info = find_quant(tensor.dtype);
  if (info == nullptr)
    return fail(ErrorCode::unsupported,
                "{}: {} is stored as {}, which is not supported: take another quantization of this model",
                name_, what, dtype_name(tensor.dtype));
  const auto size = tensor_bytes(tensor.dtype, elements / cols, cols);
  if (cols % info->block != 0)
    return corrupt("{} has rows of {}, which is not a whole number of {} blocks ({})", what, cols, info->name,
                   info->block);
  if (!size) return corrupt("{} has impossible dimensions: its size overflows", what);
  placed.bytes = *size;
  return placed;
}

Result<> Parser::read_tensors(uint64_t count) {
  // A one-byte name, one dimension, type and offset: 9 + 4 + 8 + 4 + 8.
  QUERN_TRY_VOID(reserve(count, 33, sizeof(Placed) + 128, "the tensor table"));
  std::vector<Placed> tensors;
  tensors.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    QUERN_TRY(Placed placed, read_tensor(i));
    tensors.push_back(std::move(placed));
  }
  QUERN_TRY_VOID(place(tensors));
  std::unordered_set<std::string_view> names;
  for (const Placed& placed : tensors) {
    if (!names.insert(placed.tensor.name).second)
      return corrupt("tensor {} appears twice", printable(placed.tensor.name));
  }
  file_.tensors.reserve(count);
  for (Placed& placed : tensors) file_.tensors.push_back(std::move(placed.tensor));
  return {};
}

/// Points every tensor at its data.
Result<> Parser::place(std::vector<Placed>& tensors) {
  QUERN_TRY(const uint64_t align, alignment());
  const uint64_t base = (at_ + align - 1) / align * align;
  uint64_t end = base;  // of the file that the table describes
  std::vector<const Placed*> by_offset;
  for (const Placed& placed : tensors) {
    const std::string shown = printable(placed.tensor.name);
    if (placed.offset % align != 0)
      return corrupt("tensor {} starts at offset {}, which is not a multiple of {}", shown, placed.offset,
                     align);
    uint64_t tensor_end;
    if (__builtin_add_overflow(placed.offset, placed.bytes, &tensor_end) ||
        __builtin_add_overflow(tensor_end, base, &tensor_end))
      return corrupt("tensor {} at offset {} reaches beyond any file", shown, placed.offset);
    end = std::max(end, tensor_end);
    by_offset.push_back(&placed);
  }
  if (!tensors.empty() && end > bytes_.size())
    return corrupt(
        "truncated: it has {} bytes and its tensors reach to byte {}, so {} are missing: download it again{}",
        bytes_.size(), end, end - bytes_.size(),
        name_.find("split-") != std::string::npos ? ", or join its parts first" : "");
  std::sort(by_offset.begin(), by_offset.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    if (by_offset[i - 1]->offset + by_offset[i - 1]->bytes > by_offset[i]->offset)
      return corrupt("tensors {} and {} overlap", printable(by_offset[i - 1]->tensor.name),
                     printable(by_offset[i]->tensor.name));
  }
  for (Placed& placed : tensors) placed.tensor.data = bytes_.subspan(base + placed.offset, placed.bytes);
  return {};
}

Result<File> Parser::run() {
  QUERN_TRY_VOID(check_header(bytes_, name_));
  at_ = 4;
  QUERN_TRY(file_.version, read<uint32_t>("the header"));
  QUERN_TRY(const auto tensors, read<uint64_t>("the header"));
  QUERN_TRY(const auto keys, read<uint64_t>("the header"));
  QUERN_TRY_VOID(read_metadata(keys));
  QUERN_TRY_VOID(read_tensors(tensors));
  return std::move(file_);
}

}  // namespace

Result<File> parse(std::span<const std::byte> bytes, const std::string& name) {
  return Parser(bytes, name).run();
}

}  // namespace quern::gguf
