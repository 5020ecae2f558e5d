#include <cuda_runtime_api.h>

#include <mutex>

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

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, const cudaDeviceProp& properties, cudaStream_t stream, cudaStream_t loading)
      : index_(index),
        name_(properties.name),
        multiprocessors_(properties.multiProcessorCount),
        hopper_(properties.major == 9 && properties.minor == 0),
        nvml_(bus_of(index)),
        stream_(stream),
        queue_(stream, properties.major >= 9),
        loading_(loading, properties.major >= 9) {}
  ~CudaDevice() override {
    use();
    queue_.run();
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
    cudaStreamDestroy(loading_.stream());
  }

  std::string name() const override { return name_; }
  int multiprocessors() const override { return multiprocessors_; }
  bool hopper() const override { return hopper_; }
  DeviceMemory memory() const override {
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
      return cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, loading_.stream());
    });
  }
  Result<> load_back(void* host, const void* from, size_t bytes) override {
    return loading("copying back", [&] {
      return cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, loading_.stream());
    });
  }
  Result<> beside(const std::function<void(Stream)>& launches) override {
    return loading("a kernel beside the steps", [&] {
      launches(&loading_);
      return loading_.take_error();
    });
  }

  Stream stream() override {
    use();
    return &queue_;
  }
  void collect() override { queue_.collect(); }
  void copy_in(void* to, const void* host, size_t bytes) override {
    use();
    note(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void copy(void* to, const void* from, size_t bytes) override {
    use();
    queue_.run();
    note(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  void read_rows(void* host, const void* from, size_t bytes, size_t stride, size_t rows) override {
    use();
    queue_.run();
    note(cudaMemcpy2DAsync(host, bytes, from, stride, bytes, rows, cudaMemcpyDeviceToHost, stream_));
  }
  void write_rows(void* to, const void* host, size_t bytes, size_t stride, size_t rows) override {
    use();
    queue_.run();
    note(cudaMemcpy2DAsync(to, stride, host, bytes, bytes, rows, cudaMemcpyHostToDevice, stream_));
  }
  Result<> wait() override {
    use();
    queue_.run();
    note(cudaStreamSynchronize(stream_));
    note(queue_.take_error());
    note(cudaGetLastError());  // launches that the driver refused
    if (error_ != cudaSuccess) return device_error(ErrorCode::internal, "the GPU failed", error_);
    return {};
  }

 private:
  template <class Start>
  Result<> loading(std::string_view what, const Start& start) {
    use();
    const std::lock_guard lock(loading_mutex_);
    cudaError_t error = start();
    if (error == cudaSuccess) error = cudaStreamSynchronize(loading_.stream());
    if (error != cudaSuccess) return device_error(ErrorCode::internal, what, error);
    return {};
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
  const cudaStream_t stream_;
  Queue queue_;
  std::mutex loading_mutex_;
  Queue loading_;
  cudaError_t error_ = cudaSuccess;
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
  error = cudaSetDevice(index);
  cudaStream_t stream = nullptr, loading = nullptr;
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&loading, cudaStreamNonBlocking);
  if (error != cudaSuccess) return device_error(ErrorCode::unavailable, "the GPU cannot be set up", error);
  return std::make_unique<CudaDevice>(index, properties, stream, loading);
}

}  // namespace quern::cuda
