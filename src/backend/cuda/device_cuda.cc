#include <cuda_runtime_api.h>

#include <atomic>
#include <mutex>
#include <utility>

#include "backend/cuda/device.h"
#include "backend/cuda/nvml.h"
#include "backend/cuda/queue.h"

namespace quern::cuda {
namespace {

constexpr int kOldest = 80;  // compute capability 8.0

/// "what: why", and what to do about it where that is known.
tl::unexpected<Error> device_error(ErrorCode code, std::string_view what, cudaError_t error) {
  return fail(code, "cuda: {}: {} ({})", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

/// Its PCI address, which NVML counts GPUs by; empty when there is none.
std::string bus_of(int index) {
  char bus[32] = "";
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, index) != cudaSuccess) return "";
  return bus;
}

/// A stream and its queue.
class Lane {
 public:
  static Result<std::unique_ptr<Lane>> open(bool overlap) {
    cudaStream_t stream = nullptr;
    const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) return device_error(ErrorCode::unavailable, "the GPU cannot be set up", error);
    return std::make_unique<Lane>(stream, overlap);
  }
  Lane(cudaStream_t stream, bool overlap) : stream_(stream), queue_(stream, overlap) {}
  ~Lane() {
    queue_.run();
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  cudaStream_t stream() const { return stream_; }
  Queue& queue() { return queue_; }

 private:
  const cudaStream_t stream_;
  Queue queue_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, const cudaDeviceProp& properties)
      : index_(index),
        name_(properties.name),
        multiprocessors_(properties.multiProcessorCount),
        hopper_(properties.major == 9 && properties.minor == 0),
        nvml_(bus_of(index)) {}
  ~CudaDevice() override { use(); }

  /// Before anything else.
  Result<> start() {
    use();
    // Only code for sm_90a waits for the kernel before (wait_for_previous): newer GPUs run that for 8.0.
    QUERN_TRY(steps_, Lane::open(hopper_));
    QUERN_TRY(loads_, Lane::open(hopper_));
    return {};
  }

  std::string name() const override { return name_; }
  int multiprocessors() const override { return multiprocessors_; }
  bool hopper() const override { return hopper_; }
  DeviceMemory memory() const override {
    if (failed_) return {};
    use();
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) return {};
    return {total, free};
  }

  std::optional<double> utilization() const override { return nvml_.utilization(); }

  void* alloc(size_t bytes) override {
    use();
    void* memory = nullptr;
    if (cudaMalloc(&memory, bytes) == cudaSuccess) return memory;
    cudaGetLastError();  // a refusal is no failure of the device
    return nullptr;
  }
  void free(void* memory) override {
    use();
    cudaFree(memory);
  }
  void* alloc_host(size_t bytes) override {
    use();
    void* memory = nullptr;
    if (cudaMallocHost(&memory, bytes) == cudaSuccess) return memory;
    cudaGetLastError();
    return nullptr;
  }
  void free_host(void* memory) override {
    use();
    cudaFreeHost(memory);
  }

  Result<> load(void* to, const void* host, size_t bytes) override {
    return loading("copying weights", [&] {
      return cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, loads_->stream());
    });
  }
  Result<> load_back(void* host, const void* from, size_t bytes) override {
    return loading("copying back", [&] {
      return cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, loads_->stream());
    });
  }
  Result<> beside(const std::function<void(Stream)>& launches) override {
    return loading("a kernel beside the steps", [&] {
      launches(&loads_->queue());
      return loads_->queue().take_error();
    });
  }

  Stream stream() override {
    use();
    return &steps_->queue();
  }
  void collect() override { steps_->queue().collect(); }
  void copy_in(void* to, const void* host, size_t bytes) override {
    use();
    note(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, steps_->stream()));
  }
  void copy(void* to, const void* from, size_t bytes) override {
    use();
    steps_->queue().run();
    note(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, steps_->stream()));
  }
  void read_rows(void* host, const void* from, size_t bytes, size_t stride, size_t rows) override {
    use();
    steps_->queue().run();
    note(cudaMemcpy2DAsync(host, bytes, from, stride, bytes, rows, cudaMemcpyDeviceToHost, steps_->stream()));
  }
  void write_rows(void* to, const void* host, size_t bytes, size_t stride, size_t rows) override {
    use();
    steps_->queue().run();
    note(cudaMemcpy2DAsync(to, stride, host, bytes, bytes, rows, cudaMemcpyHostToDevice, steps_->stream()));
  }
  Result<> wait() override {
    if (steps_ == nullptr) return fail(ErrorCode::unavailable, "cuda: the GPU failed");
    use();
    steps_->queue().run();
    note(cudaStreamSynchronize(steps_->stream()));
    note(steps_->queue().take_error());
    note(cudaGetLastError());
    const cudaError_t error = std::exchange(error_, cudaSuccess);
    if (error == cudaSuccess) return {};
    return device_error(ErrorCode::internal, still_answers() ? "the GPU refused a step" : "the GPU failed",
                        error);
  }

  bool failed() const override { return failed_; }
  Result<> restart() override {
    use();
    const std::lock_guard lock(loading_mutex_);
    steps_.reset();
    loads_.reset();
    error_ = cudaSuccess;
    // After a fault the reset may tell of that fault once more: whether a new context can be made is what
    // counts.
    cudaDeviceReset();
    cudaGetLastError();
    cudaError_t error = cudaSetDevice(index_);
    if (error == cudaSuccess) error = cudaFree(nullptr);  // makes a context
    if (error != cudaSuccess)
      return device_error(ErrorCode::unavailable,
                          "the GPU failed and does not come back: start this program again", error);
    QUERN_TRY_VOID(start());
    failed_ = false;
    return {};
  }

 private:
  template <class Start>
  Result<> loading(std::string_view what, const Start& start) {
    use();
    const std::lock_guard lock(loading_mutex_);
    if (loads_ == nullptr) return fail(ErrorCode::unavailable, "cuda: the GPU failed");
    cudaError_t error = start();
    if (error == cudaSuccess) error = cudaStreamSynchronize(loads_->stream());
    if (error == cudaSuccess) return {};
    still_answers();
    return device_error(ErrorCode::internal, what, error);
  }
  /// After an error. Some are a refusal of what was asked; after others (an address that is not there, a
  /// kernel that trapped) every call gives the same error again.
  bool still_answers() {
    cudaGetLastError();
    if (cudaDeviceSynchronize() != cudaSuccess) failed_ = true;
    cudaGetLastError();
    return !failed_;
  }
  /// A thread has to say which GPU it means.
  void use() const { cudaSetDevice(index_); }
  void note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }

  const int index_;
  const std::string name_;
  const int multiprocessors_;
  const bool hopper_;
  const Nvml nvml_;
  std::unique_ptr<Lane> steps_;
  std::mutex loading_mutex_;
  std::unique_ptr<Lane> loads_;
  cudaError_t error_ = cudaSuccess;
  std::atomic<bool> failed_ = false;
};

}  // namespace

Result<std::unique_ptr<Device>> open_device(int index) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver)
    return fail(
        ErrorCode::unavailable,
        "cuda: there is no NVIDIA driver, or it is too old for CUDA {}.{}: install one, or use the CPU",
        CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  if (error == cudaErrorNoDevice)
    return fail(ErrorCode::unavailable, "cuda: no GPU is visible (CUDA_VISIBLE_DEVICES can hide them)");
  if (error != cudaSuccess) return device_error(ErrorCode::unavailable, "no GPU can be used", error);
  if (index >= count)
    return fail(ErrorCode::unavailable, "cuda: there is no GPU {}: {} visible, counted from 0", index, count);
  cudaDeviceProp properties{};
  error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) return device_error(ErrorCode::unavailable, "the GPU does not answer", error);
  if (properties.major * 10 + properties.minor < kOldest)
    return fail(ErrorCode::unsupported, "cuda: {} has compute capability {}.{}, 8.0 or newer is needed",
                properties.name, properties.major, properties.minor);
  auto device = std::make_unique<CudaDevice>(index, properties);
  QUERN_TRY_VOID(device->start());
  return device;
}

}  // namespace quern::cuda
