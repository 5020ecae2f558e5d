#include <cstdlib>
#include <cstring>
#include <map>

#include "backend/cuda/device.h"

namespace quern::cuda {
namespace {

class EmulatedDevice final : public Device {
 public:
  explicit EmulatedDevice(size_t bytes) : total_(bytes) {}
  ~EmulatedDevice() override {
    for (const auto& [memory, size] : sizes_) std::free(memory);
  }

  std::string name() const override { return "emulated GPU"; }
  bool hopper() const override { return false; }
  int multiprocessors() const override { return 4; }
  std::optional<double> utilization() const override { return std::nullopt; }
  DeviceMemory memory() const override { return {total_, total_ - used_}; }

  void* alloc(size_t bytes) override {
    if (bytes > total_ - used_) return nullptr;
    void* memory = std::aligned_alloc(256, (bytes + 256) / 256 * 256);
    if (memory == nullptr) return nullptr;
    std::memset(memory, 0xff, bytes);  // NaNs: what nobody wrote shows
    sizes_[memory] = bytes;
    used_ += bytes;
    return memory;
  }
  void free(void* memory) override {
    const auto found = sizes_.find(memory);
    if (found == sizes_.end()) return;
    used_ -= found->second;
    sizes_.erase(found);
    std::free(memory);
  }
  void* alloc_host(size_t bytes) override { return std::malloc(bytes); }
  void free_host(void* memory) override { std::free(memory); }

  Result<> load(void* to, const void* host, size_t bytes) override {
    std::memcpy(to, host, bytes);
    return {};
  }
  Result<> load_back(void* host, const void* from, size_t bytes) override {
    std::memcpy(host, from, bytes);
    return {};
  }
  Result<> beside(const std::function<void(Stream)>& launches) override {
    launches(nullptr);
    return {};
  }
  Stream stream() override { return nullptr; }
  void copy_in(void* to, const void* host, size_t bytes) override { std::memcpy(to, host, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void read_rows(void* host, const void* from, size_t bytes, size_t stride, size_t rows) override {
    for (size_t r = 0; r < rows; ++r)
      std::memcpy(static_cast<std::byte*>(host) + r * bytes, static_cast<const std::byte*>(from) + r * stride,
                  bytes);
  }
  void write_rows(void* to, const void* host, size_t bytes, size_t stride, size_t rows) override {
    for (size_t r = 0; r < rows; ++r)
      std::memcpy(static_cast<std::byte*>(to) + r * stride, static_cast<const std::byte*>(host) + r * bytes,
                  bytes);
  }
  Result<> wait() override { return {}; }

 private:
  const size_t total_;
  size_t used_ = 0;
  std::map<void*, size_t> sizes_;
};

}  // namespace

std::unique_ptr<Device> emulated_device(size_t bytes) { return std::make_unique<EmulatedDevice>(bytes); }

}  // namespace quern::cuda
