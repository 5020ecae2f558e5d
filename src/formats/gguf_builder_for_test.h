// Makes GGUF files byte by byte, independent of the writer, wrong ones as well.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "formats/gguf_parse.h"

/// The message `text` names `part`.
#define EXPECT_CONTAINS(text, part) \
  EXPECT_PRED_FORMAT2(testing::IsSubstring, std::string(part), std::string(text))

namespace quern {

/// Appends values as a GGUF file stores them.
class ByteBuilder {
 public:
  template <class T>
  ByteBuilder& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  ByteBuilder& type(gguf::ValueType type) { return put(static_cast<uint32_t>(type)); }
  ByteBuilder& text(std::string_view text) {
    put(static_cast<uint64_t>(text.size()));
    bytes_ += text;
    return *this;
  }
  ByteBuilder& raw(std::string_view text) {
    bytes_ += text;
    return *this;
  }
  ByteBuilder& header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    return raw("GGUF").put(version).put(tensors).put(keys);
  }
  ByteBuilder& key(std::string_view name, gguf::ValueType value_type) { return text(name).type(value_type); }
  ByteBuilder& string_key(std::string_view name, std::string_view value) {
    return key(name, gguf::ValueType::string).text(value);
  }
  /// Dimensions innermost first, as the file has them.
  ByteBuilder& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t dtype,
                      uint64_t offset) {
    text(name).put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) put(d);
    return put(dtype).put(offset);
  }
  ByteBuilder& pad(size_t alignment = 32) {
    bytes_.append((alignment - bytes_.size() % alignment) % alignment, '\0');
    return *this;
  }
  ByteBuilder& zeros(size_t n) {
    bytes_.append(n, '\0');
    return *this;
  }
  const std::string& str() const { return bytes_; }
  std::string& str() { return bytes_; }

 private:
  std::string bytes_;
};

/// A folder that disappears with its contents.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quern-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// Every value type, two tensors of 18 and 8 bytes.
inline ByteBuilder small_file(uint32_t version = 3) {
  using gguf::ValueType;
  ByteBuilder b;
  b.header(2, 17, version);
  b.string_key("general.architecture", "llama");
  b.key("u8", ValueType::u8).put(uint8_t{200});
  b.key("i8", ValueType::i8).put(int8_t{-100});
  b.key("u16", ValueType::u16).put(uint16_t{60000});
  b.key("i16", ValueType::i16).put(int16_t{-30000});
  b.key("u32", ValueType::u32).put(uint32_t{4000000000});
  b.key("i32", ValueType::i32).put(int32_t{-2000000000});
  b.key("f32", ValueType::f32).put(0.1f);
  b.key("bool", ValueType::boolean).put(uint8_t{1});
  b.key("u64", ValueType::u64).put(~uint64_t{0});
  b.key("i64", ValueType::i64).put(int64_t{-5});
  b.key("f64", ValueType::f64).put(0.1);
  b.key("strings", ValueType::array).type(ValueType::string).put(uint64_t{2}).text("a").text("");
  b.key("floats", ValueType::array).type(ValueType::f32).put(uint64_t{2}).put(1.5f).put(-2.0f);
  b.key("bytes", ValueType::array).type(ValueType::i8).put(uint64_t{3}).put('\1').put('\xff').put('\3');
  b.key("bools", ValueType::array).type(ValueType::boolean).put(uint64_t{2}).put('\0').put('\1');
  b.key("nested", ValueType::array).type(ValueType::array).put(uint64_t{2});
  b.type(ValueType::u16).put(uint64_t{1}).put(uint16_t{7});
  b.type(ValueType::string).put(uint64_t{1}).text("deep");
  b.tensor("a.weight", {32}, 2, 0);
  b.tensor("b.weight", {1, 2}, 0, 32);
  b.pad();
  b.raw(std::string(18, '\x11')).pad();
  b.put(1.0f).put(2.0f);
  return b;
}

}  // namespace quern
