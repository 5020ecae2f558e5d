// One GPU, or its emulator: memory, copies, and the one stream that all kernels run on.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "backend/cuda/launch.h"

namespace quern::cuda {

class Device {
 public:
  virtual ~Device() = default;

  virtual std::string name() const = 0;  // "NVIDIA H100 80GB HBM3"
  virtual int multiprocessors() const = 0;
  /// Whether it runs code for sm_90a.
  virtual bool hopper() const = 0;
  virtual DeviceMemory memory() const = 0;
  virtual std::optional<double> utilization() const = 0;

  /// Aligned to 256. Null when there is no such memory.
  virtual void* alloc(size_t bytes) = 0;
  virtual void free(void* memory) = 0;
  /// Host memory that copies are fast from; null when there is none.
  virtual void* alloc_host(size_t bytes) = 0;
  virtual void free_host(void* memory) = 0;

  // ---- beside the stream, for weights, from any thread; done when they return
  virtual Result<> load(void* to, const void* host, size_t bytes) = 0;
  virtual Result<> load_back(void* host, const void* from, size_t bytes) = 0;
  /// Runs launches on another stream.
  virtual Result<> beside(const std::function<void(Stream)>& launches) = 0;

  // ---- in the stream's order; what fails is told by `wait`
  virtual Stream stream() = 0;
  /// Launches from here to the next call below (but copy_in) are collected, to run together (queue.h). What
  /// copy_in copies meanwhile is there before them.
  virtual void collect() {}
  virtual void copy_in(void* to, const void* host, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  /// `rows` rows of `bytes` bytes that lie `stride` apart on the device and side by side on the host.
  virtual void read_rows(void* host, const void* from, size_t bytes, size_t stride, size_t rows) = 0;
  virtual void write_rows(void* to, const void* host, size_t bytes, size_t stride, size_t rows) = 0;
  /// Returns when the stream is empty. Fails when something since the last call did.
  virtual Result<> wait() = 0;

  /// Whether it answers nothing more.
  virtual bool failed() const = 0;
  /// Starts anew; all memory must have been freed.
  virtual Result<> restart() = 0;
};

/// GPU `index` of those that CUDA_VISIBLE_DEVICES leaves. unavailable: no driver or no such GPU;
/// unsupported: too old.
Result<std::unique_ptr<Device>> open_device(int index);

/// The emulator (simt/emulator.h), with `bytes` of memory and as many of page-locked memory, and what sm_90a
/// has if it is a `hopper`. It fails, until it is restarted, when somebody sets `broken`.
std::unique_ptr<Device> emulated_device(size_t bytes, std::shared_ptr<std::atomic<bool>> broken = nullptr,
                                        bool hopper = false);

/// After a self-test (self_check.h) when `tested`.
Result<std::unique_ptr<Backend>> make_device_backend(std::unique_ptr<Device> device,
                                                     const GpuOptions& options = {}, bool tested = false);

}  // namespace quern::cuda
