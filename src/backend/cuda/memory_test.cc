// Memory that is refused: nothing breaks, and what was there before stays.
#include "backend/cuda/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "backend/device_for_test.h"
#include "backend/test_util.h"

namespace quern::cuda {
namespace {

using namespace quern::testing;

constexpr size_t kMiB = 1 << 20;  // Uploads takes as much at once

/// `device` has room for one piece of uploads, and lacks some kind of memory for a second.
void check_uploads(const std::shared_ptr<Device>& device) {
  Uploads uploads(device);
  const std::vector<int32_t> large(200'000, 5), small(16, 7);
  const auto first = uploads.add(std::span<const int32_t>(large));
  ASSERT_TRUE(first.has_value());
  const auto refused = uploads.add(std::span<const int32_t>(large));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  const auto second = uploads.add(std::span<const int32_t>(small));
  ASSERT_TRUE(second.has_value()) << "there is room in the first piece";
  uploads.flush();
  EXPECT_TRUE(std::ranges::equal(large, std::span(*first, large.size())));
  EXPECT_TRUE(std::ranges::equal(small, std::span(*second, small.size())));
}

TEST(Memory, UploadsThatFindNoDeviceMemory) { check_uploads(emulated_device(kMiB + 4096)); }

TEST(Memory, UploadsThatFindNoHostMemory) {
  const std::shared_ptr<Device> device = emulated_device(8 * kMiB);
  void* most = device->alloc_host(6 * kMiB + 4096);
  ASSERT_NE(most, nullptr);
  check_uploads(device);
  device->free_host(most);
}

TEST(Memory, AMatmulWithoutRoomForItsActivationsFailsTheStep) {
  constexpr int64_t kRows = 32, kCols = 256, kBatch = 300;
  constexpr size_t kActivations = kBatch * (kRows + kCols) * sizeof(float);
  const auto backend = *make_device_backend(emulated_device(kActivations + (40 << 10)));
  const TestMatrix m = random_matrix(*find_quant("F16"), {kRows, kCols}, 1);
  const auto weight = backend->prepare(m.tensor);
  ASSERT_TRUE(weight.has_value()) << weight.error().message;
  const TestTensor x = TestTensor::random(kBatch, kCols, 2);
  const DeviceTensor in(*backend, kBatch, kCols, x.values);
  const std::vector<float> sevens(kBatch * kRows, 7.0f);
  const DeviceTensor out(*backend, kBatch, kRows, sevens);
  backend->matmul(out.view.slice_rows(0, 4), **weight, in.view.slice_rows(0, 4), nullptr, false);
  ASSERT_TRUE(backend->end_step().has_value());
  backend->write(out.view, sevens.data());
  backend->matmul(out.view, **weight, in.view, nullptr, false);
  const auto done = backend->end_step();
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(out.values(), sevens) << "an op that fails does nothing";
}

}  // namespace
}  // namespace quern::cuda
