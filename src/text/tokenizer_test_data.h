// For tests: metadata of a GGUF file on disk (the library of file formats lies above this folder), and
// vocabularies made by hand.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "core/metadata.h"

namespace quern::test {

inline std::string read_all(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

/// Reads well-formed little-endian GGUF v2/v3 only.
class GgufMetadataReader {
 public:
  explicit GgufMetadataReader(std::string bytes) : bytes_(std::move(bytes)) {}

  Metadata read() {
    at_ = 8 + 8;  // magic, version, tensor count
    Metadata metadata;
    for (auto left = number<uint64_t>(); left > 0; --left) {
      std::string key = text();
      const auto type = number<uint32_t>();
      metadata.add(std::move(key), value(type));
    }
    return metadata;
  }

 private:
  template <class T>
  T number() {
    T x;
    std::memcpy(&x, bytes_.data() + at_, sizeof x);
    at_ += sizeof x;
    return x;
  }
  std::string text() {
    const auto length = number<uint64_t>();
    at_ += length;
    return bytes_.substr(at_ - length, length);
  }
  Metadata::Value value(uint32_t type) {
    switch (type) {
      case 0:
        return uint64_t{number<uint8_t>()};
      case 1:
        return int64_t{number<int8_t>()};
      case 2:
        return uint64_t{number<uint16_t>()};
      case 3:
        return int64_t{number<int16_t>()};
      case 4:
        return uint64_t{number<uint32_t>()};
      case 5:
        return int64_t{number<int32_t>()};
      case 6:
        return double{number<float>()};
      case 7:
        return number<uint8_t>() != 0;
      case 8:
        return text();
      case 9:
        return array(number<uint32_t>());
      case 10:
        return number<uint64_t>();
      case 11:
        return number<int64_t>();
      default:
        return number<double>();
    }
  }
  template <class T>
  Metadata::Array array_of(uint32_t type, uint64_t count) {
    std::vector<T> items;
    for (; count > 0; --count) items.push_back(std::get<T>(value(type)));
    return {std::move(items)};
  }
  Metadata::Array array(uint32_t type) {
    const auto count = number<uint64_t>();
    if (type == 8) return array_of<std::string>(type, count);
    if (type == 7) return array_of<bool>(type, count);
    if (type == 6 || type == 12) return array_of<double>(type, count);
    if (type == 1 || type == 3 || type == 5 || type == 11) return array_of<int64_t>(type, count);
    return array_of<uint64_t>(type, count);
  }

  std::string bytes_;
  size_t at_ = 0;
};

inline Metadata read_gguf_metadata(const std::filesystem::path& path) {
  return GgufMetadataReader(read_all(path)).read();
}

/// A copy with one value changed or added; an empty value leaves the key out.
inline Metadata with(const Metadata& metadata, const std::string& key, std::optional<Metadata::Value> value) {
  Metadata changed;
  for (const auto& [k, v] : metadata.entries()) {
    if (k != key) changed.add(k, v);
  }
  if (value) changed.add(key, *value);
  return changed;
}

}  // namespace quern::test
