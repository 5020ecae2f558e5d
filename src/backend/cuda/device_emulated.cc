#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "backend/cuda/device.h"

namespace quern::cuda {
namespace {

class EmulatedDevice final : public Device {
 public:
  EmulatedDevice(size_t bytes, std::shared_ptr<std::atomic<bool>> broken, bool hopper)
      : total_(bytes), broken_(std::move(broken)), hopper_(hopper) {}
  ~EmulatedDevice() override {
    for (const auto& [memory, size] : sizes_) std::free(memory);
  }

  std::string name() const override { return "emulated GPU"; }
  bool hopper() const override { return hopper_; }
  int multiprocessors() const override { return 4; }
  std::optional<double> utilization() const override { return std::nullopt; }
  DeviceMemory memory() const override {
    const std::lock_guard lock(mutex_);
    return {total_, total_ - used_};
  }

  void* alloc(size_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (bytes > total_ - used_) return nullptr;
    void* memory = std::aligned_alloc(256, (bytes + 256) / 256 * 256);
    if (memory == nullptr) return nullptr;
    std::memset(memory, 0xff, bytes);  // NaNs: what nobody wrote shows
    sizes_[memory] = bytes;
    used_ += bytes;
    return memory;
  }
  void free(void* memory) override {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(memory);
    if (found == sizes_.end()) return;
    used_ -= found->second;
    sizes_.erase(found);
    std::free(memory);
  }
  void* alloc_host(size_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (bytes > total_ - host_used_) return nullptr;
    void* memory = std::malloc(bytes);
    host_sizes_[memory] = bytes;
    host_used_ += bytes;
    return memory;
  }
  void free_host(void* memory) override {
    const std::lock_guard lock(mutex_);
    const auto found = host_sizes_.find(memory);
    if (found == host_sizes_.end()) return;
    host_used_ -= found->second;
    host_sizes_.erase(found);
    std::free(memory);
  }

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
  Result<> wait() override {
    if (failed()) return fail(ErrorCode::internal, "cuda: the emulated GPU failed");
    return {};
  }
  bool failed() const override { return broken_ != nullptr && *broken_; }
  Result<> restart() override {
    const std::lock_guard lock(mutex_);
    if (used_ > 0) return fail(ErrorCode::internal, "cuda: {} bytes are still in use", used_);
    if (broken_ != nullptr) *broken_ = false;
    return {};
  }

 private:
  const size_t total_;
  const std::shared_ptr<std::atomic<bool>> broken_;
  const bool hopper_;
  mutable std::mutex mutex_;
  size_t used_ = 0, host_used_ = 0;
  std::map<void*, size_t> sizes_, host_sizes_;
};

}  // namespace

std::unique_ptr<Device> emulated_device(size_t bytes, std::shared_ptr<std::atomic<bool>> broken,
                                        bool hopper) {
  return std::make_unique<EmulatedDevice>(bytes, std::move(broken), hopper);
}

}  // namespace quern::cuda
