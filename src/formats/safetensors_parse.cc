// One safetensors file: header and tensor table.
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <unordered_set>

#include "formats/json_walk.h"
#include "formats/printable.h"
#include "formats/safetensors.h"

namespace quern::safetensors {
namespace {

/// Bytes of one element; empty for types of less than a byte and those that came later.
std::optional<uint64_t> element_bytes(std::string_view dtype) {
  struct Size {
    std::string_view dtype;
    uint64_t bytes;
  };
  static constexpr Size sizes[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2},    {"F64", 8},     {"I64", 8},
                                   {"U64", 8}, {"I32", 4}, {"U32", 4},     {"I16", 2},     {"U16", 2},
                                   {"I8", 1},  {"U8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
                                   {"C64", 8}, {"BOOL", 1}};
  for (const Size& size : sizes) {
    if (size.dtype == dtype) return size.bytes;
  }
  return std::nullopt;
}

std::optional<DType> known_dtype(std::string_view dtype) {
  if (dtype == "F32") return DType::F32;
  if (dtype == "F16") return DType::F16;
  if (dtype == "BF16") return DType::BF16;
  return std::nullopt;
}

struct Entry {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {…}}
class HeaderWalk final : public JsonWalk {
 public:
  // Newer writers may put more into an entry; what is unknown is skipped.
  HeaderWalk() : JsonWalk(8) {}

  std::vector<Entry> entries;

  bool key(std::string& name) override {
    if (depth() == 1) {
      in_entry_ = name != "__metadata__";
      if (!in_entry_) return true;
      if (entries.size() == kMaxTensors)
        return refuse(fmt::format("it has more than {} tensors", kMaxTensors));
      entries.emplace_back();
      entries.back().name = std::move(name);
    } else if (depth() == 2) {
      field_ = name == "dtype"          ? Field::dtype
               : name == "shape"        ? Field::shape
               : name == "data_offsets" ? Field::offsets
                                        : Field::unknown;
    }
    return true;
  }
  bool string(std::string& text) override {
    if (!in_entry_ || depth() != 2 || field_ != Field::dtype) return other();
    if (std::exchange(entries.back().has_dtype, true)) return twice();
    entries.back().dtype = std::move(text);
    return true;
  }
  bool number_unsigned(uint64_t n) override {
    if (!in_entry_ || depth() != 3 || (field_ != Field::shape && field_ != Field::offsets)) return other();
    if (field_ == Field::offsets) {
      if (entries.back().offsets.size() == 2) return bad("more than two data_offsets");
      entries.back().offsets.push_back(n);
      return true;
    }
    if (n > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return bad("an absurd dimension");
    if (entries.back().shape.size() == kMaxDimensions)
      return bad(fmt::format("more than {} dimensions", kMaxDimensions));
    entries.back().shape.push_back(static_cast<int64_t>(n));
    return true;
  }

 private:
  enum class Field : uint8_t { unknown, dtype, shape, offsets };

  /// At once, so that a header of nothing but names does not become a list of them.
  bool closed() override {
    if (depth() != 1 || !in_entry_) return true;
    const Entry& entry = entries.back();
    if (entry.has_dtype && entry.has_shape && entry.offsets.size() == 2) return true;
    return refuse(fmt::format("tensor {} has no {}", printable(entry.name),
                              !entry.has_dtype   ? "dtype"
                              : !entry.has_shape ? "shape"
                                                 : "data_offsets"));
  }

  bool bad(std::string_view why) {
    return refuse(fmt::format("tensor {} has {}", printable(entries.back().name), why));
  }
  bool twice() { return bad("a field twice"); }

  bool other() override {
    if (depth() == 0) return refuse("not a JSON object");
    if (!in_entry_) return true;
    if (depth() == 1) return refuse(fmt::format("tensor {} is no object", printable(entries.back().name)));
    if (field_ == Field::unknown) return true;
    return bad(field_ == Field::dtype   ? "a dtype that is no text"
               : field_ == Field::shape ? "a shape that is no list of sizes"
                                        : "data_offsets that are no list of positions");
  }

  bool opened(bool array) override {
    if (depth() == 0 && array) return refuse("not a JSON object");
    if (depth() == 1 && array) return refuse("a list where a tensor's entry should be");
    if (depth() < 2 || !in_entry_ || field_ == Field::unknown) return true;
    if (depth() > 2 || !array || field_ == Field::dtype) return other();
    bool& seen = field_ == Field::shape ? entries.back().has_shape : entries.back().has_offsets;
    return std::exchange(seen, true) ? twice() : true;
  }

  bool in_entry_ = false;
  Field field_ = Field::unknown;
};

/// Bytes that the shape needs; empty when that is more than 2^63.
std::optional<uint64_t> bytes_of(const Entry& entry, uint64_t element) {
  uint64_t bytes = element;
  // A dimension of 0 makes it empty, however large the others are.
  if (std::ranges::find(entry.shape, 0) != entry.shape.end()) return 0;
  for (const int64_t n : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes) || bytes >> 63 != 0)
      return std::nullopt;
  }
  return bytes;
}

Result<> check_entry(const Entry& entry, uint64_t data_bytes, const std::string& file) {
  const std::string name = printable(entry.name);
  const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
  if (begin > end || end > data_bytes)
    return fail(ErrorCode::corrupt, "{}: tensor {} lies at bytes {} to {} of {}: is the file whole?", file,
                name, begin, end, data_bytes);
  const auto element = element_bytes(entry.dtype);
  if (!element) return {};
  const auto bytes = bytes_of(entry, *element);
  if (!bytes || *bytes != end - begin)
    return fail(ErrorCode::corrupt, "{}: tensor {} has {} bytes, but {} [{}] needs {}", file, name,
                end - begin, printable(entry.dtype), fmt::join(entry.shape, ", "),
                bytes ? fmt::format("{}", *bytes) : "more than there can be");
  return {};
}

Result<std::string_view> read_header(std::span<const std::byte> bytes, const std::string& file) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  QUERN_TRY(const uint64_t end, head_bytes(text.substr(0, sizeof(uint64_t)), file));
  if (end > bytes.size())
    return fail(ErrorCode::corrupt, "{}: the header has {} bytes, but the file ends after {}: is it whole?",
                file, end - sizeof(uint64_t), bytes.size() - sizeof(uint64_t));
  return text.substr(sizeof(uint64_t), end - sizeof(uint64_t));
}

}  // namespace

Result<uint64_t> head_bytes(std::string_view first, const std::string& name) {
  uint64_t length = 0;
  if (first.size() < sizeof length)
    return fail(ErrorCode::corrupt, "{}: {} bytes are no safetensors file: is it whole?", name, first.size());
  std::memcpy(&length, first.data(), sizeof length);  // little-endian, as every machine that we run on
  if (length > kMaxHeaderBytes)
    return fail(ErrorCode::corrupt, "{}: not a safetensors file (a header of {} bytes; the most is {})", name,
                length, kMaxHeaderBytes);
  return sizeof length + length;
}

Result<Tensors> parse(std::span<const std::byte> bytes, const std::string& name) {
  QUERN_TRY(const std::string_view header, read_header(bytes, name));
  HeaderWalk walk;
  if (!walk.walk(header))
    return fail(ErrorCode::corrupt, "{}: its header is damaged: {}", name, walk.problem());
  const auto data = bytes.subspan(sizeof(uint64_t) + header.size());
  std::unordered_set<std::string_view> names;
  for (const Entry& entry : walk.entries) {
    QUERN_TRY_VOID(check_entry(entry, data.size(), name));
    if (!names.insert(entry.name).second)
      return fail(ErrorCode::corrupt, "{}: tensor {} is there twice", name, printable(entry.name));
  }
  std::vector<Entry*> order;
  for (Entry& entry : walk.entries) order.push_back(&entry);
  std::ranges::stable_sort(order, {}, &Entry::offsets);
  Tensors result;
  const Entry* before = nullptr;
  for (Entry* entry : order) {
    const uint64_t begin = entry->offsets[0], end = entry->offsets[1];
    if (before != nullptr && begin < before->offsets[1])
      return fail(ErrorCode::corrupt, "{}: tensors {} and {} lie over each other", name,
                  printable(before->name), printable(entry->name));
    if (begin < end) before = entry;
  }
  for (Entry* entry : order) {
    const auto view = data.subspan(entry->offsets[0], entry->offsets[1] - entry->offsets[0]);
    if (const auto dtype = known_dtype(entry->dtype))
      result.tensors.push_back({std::move(entry->name), *dtype, std::move(entry->shape), view});
    else
      result.foreign.push_back(
          {std::move(entry->name), std::move(entry->dtype), std::move(entry->shape), view});
  }
  return result;
}

}  // namespace quern::safetensors
