// What the program finds in libquern_cuda.so (backend/cuda_plugin.h).
#include "backend/cuda/device.h"
#include "backend/cuda_build.h"
#include "backend/cuda_plugin.h"

namespace quern::cuda {
namespace {

Result<std::unique_ptr<Backend>> open_backend(int index, const GpuOptions& options) {
  QUERN_TRY(auto device, open_device(index));
  return make_device_backend(std::move(device), options, /*tested=*/true);
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
