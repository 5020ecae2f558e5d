// What the program finds in libquern_cuda.so (backend/cuda_plugin.h).
#include <chrono>
#include <future>
#include <system_error>
#include <thread>

#include "backend/cuda/device.h"
#include "backend/cuda_build.h"
#include "backend/cuda_plugin.h"

namespace quern::cuda {
namespace {

using Opened = Result<std::unique_ptr<Backend>>;

Opened open_tested(int index, const GpuOptions& options) {
  QUERN_TRY(auto device, open_device(index));
  return make_device_backend(std::move(device), options, /*tested=*/true);
}

/// A kernel that never ends cannot be stopped, and whoever waits for it waits as long: the self-test runs on
/// a thread that can be left behind. It takes seconds.
constexpr std::chrono::seconds kLongestTest{120};

Opened open_backend(int index, const GpuOptions& options) {
  std::packaged_task<Opened()> test([=] { return open_tested(index, options); });
  std::future<Opened> result = test.get_future();
  try {
    std::thread(std::move(test)).detach();
  } catch (const std::system_error& error) {
    return fail(ErrorCode::resource_exhausted, "cuda: no thread to test the GPU with: {}", error.what());
  }
  if (result.wait_for(kLongestTest) == std::future_status::ready) return result.get();
  return fail(ErrorCode::unavailable, "cuda: the GPU's self-test has not ended in {} seconds: it is not used",
              kLongestTest.count());
}

}  // namespace
}  // namespace quern::cuda

extern "C" {

__attribute__((visibility("default"))) const char* quern_cuda_build() { return QUERN_CUDA_BUILD; }

__attribute__((visibility("default"))) quern::Backend* quern_cuda_open(int index,
                                                                       const quern::GpuOptions* options,
                                                                       quern::Error* error) {
  auto backend = quern::cuda::open_backend(index, *options);
  if (!backend) {
    *error = std::move(backend).error();
    return nullptr;
  }
  return backend->release();
}
}
