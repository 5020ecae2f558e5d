// Puts safetensors files together, for tests and the fuzzer: good ones and bad ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace quern::testing {

/// Any header with any length in front, and any data behind it.
inline std::string safetensors_file(const std::string& header, const std::string& data, uint64_t length) {
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out + header + data;
}
inline std::string safetensors_file(const std::string& header, const std::string& data = "") {
  return safetensors_file(header, data, header.size());
}

/// A file as writers make it; the header is padded so that the data is aligned, unless `skew` is added.
class SafetensorsBuilder {
 public:
  SafetensorsBuilder& add(const std::string& name, const std::string& dtype,
                          const std::vector<int64_t>& shape, std::span<const std::byte> bytes) {
    std::string dims;
    for (const int64_t n : shape) dims += (dims.empty() ? "" : ",") + std::to_string(n);
    entries_ += "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + dims + "],\"data_offsets\":[" +
                std::to_string(data_.size()) + "," + std::to_string(data_.size() + bytes.size()) + "]},";
    data_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return *this;
  }
  SafetensorsBuilder& add(const std::string& name, const std::string& dtype,
                          const std::vector<int64_t>& shape, const std::string& bytes) {
    return add(name, dtype, shape, std::as_bytes(std::span(bytes)));
  }

  std::string str(size_t skew = 0) const {
    std::string header = "{" + entries_ + "\"__metadata__\":{\"format\":\"pt\"}}";
    header.append((8 - header.size() % 8) % 8 + skew, ' ');
    return safetensors_file(header, data_);
  }

 private:
  std::string entries_, data_;
};

/// A folder that is removed with this.
class TestFolder {
 public:
  explicit TestFolder(const std::string& name) {
    std::string path = (std::filesystem::temp_directory_path() / ("quern_" + name + "_XXXXXX")).string();
    path_ = mkdtemp(path.data());
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace quern::testing
