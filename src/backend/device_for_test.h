// Backends whose memory the host may not touch, for tests: the CUDA backend on a GPU, where there is one, and
// on the emulator.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda_plugin.h"
#ifdef QUERN_CUDA_EMULATED
#include "backend/cuda/device.h"
#endif

namespace quern::testing {

inline std::vector<std::string> device_names() {
  return {
#ifdef QUERN_CUDA_EMULATED
      "emulated",
#endif
      "cuda"};
}

#ifdef QUERN_CUDA_EMULATED
/// The emulator, which fails when `broken` is set.
inline std::unique_ptr<Backend> breakable_backend(std::shared_ptr<std::atomic<bool>> broken,
                                                  const GpuOptions& options = {}) {
  return *cuda::make_device_backend(cuda::emulated_device(size_t{1} << 30, std::move(broken)), options);
}
#endif

/// On the emulator ("emulated", "emulated_hopper") a new one; on GPU 0 one of each kind for the whole
/// program.
inline Result<std::shared_ptr<Backend>> device_backend(const std::string& name,
                                                       const GpuOptions& options = {}) {
#ifdef QUERN_CUDA_EMULATED
  if (name.starts_with("emulated")) {
    auto device = cuda::emulated_device(size_t{1} << 30, nullptr, name == "emulated_hopper");
    QUERN_TRY(auto backend, cuda::make_device_backend(std::move(device), options));
    return std::shared_ptr<Backend>(std::move(backend));
  }
#endif
  static std::map<std::pair<bool, int>, Result<std::shared_ptr<Backend>>> opened;
  const std::pair kind(options.batch_invariant, options.hopper_cluster);
  const auto found = opened.find(kind);
  if (found != opened.end()) return found->second;
  const auto open = [&]() -> Result<std::shared_ptr<Backend>> {
    QUERN_TRY(auto backend, open_cuda(0, options));
    return std::shared_ptr<Backend>(std::move(backend));
  };
  return opened.emplace(kind, open()).first->second;
}

/// Tests over all of them. A GPU that is not there is a skip that says why.
class DeviceTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = device_backend(GetParam());
    if (!backend) GTEST_SKIP() << backend.error().message;
    backend_ = *std::move(backend);
  }
  void TearDown() override {
    if (backend_ == nullptr) return;
    const auto done = backend_->end_step();
    EXPECT_TRUE(done.has_value()) << (done ? "" : done.error().message);
  }
  bool emulated() const { return GetParam().starts_with("emulated"); }

  std::shared_ptr<Backend> backend_;
};

/// Activations on a device.
class DeviceTensor {
 public:
  DeviceTensor(Backend& backend, int64_t rows, int64_t cols, std::span<const float> values = {},
               int64_t padding = 0)
      : backend_(&backend) {
    auto memory = backend.alloc(static_cast<size_t>(rows * (cols + padding)) * sizeof(float));
    EXPECT_TRUE(memory.has_value()) << (memory ? "" : memory.error().message);
    memory_ = *std::move(memory);
    view = {static_cast<float*>(memory_->data()), rows, cols, cols + padding};
    if (!values.empty()) backend.write(view, values.data());
  }
  std::vector<float> values() const {
    std::vector<float> out(static_cast<size_t>(view.rows * view.cols));
    backend_->read(out.data(), view);
    return out;
  }

  Tensor view;

 private:
  Backend* backend_;
  std::unique_ptr<DeviceBuffer> memory_;
};

}  // namespace quern::testing
