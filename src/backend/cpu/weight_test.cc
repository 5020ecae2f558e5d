// Weights that get their final form late: the same results before, while and after, whoever leaves first.
#include "backend/cpu/weight.h"

#include <gtest/gtest.h>

#include <thread>

#include "backend/cpu/packer.h"
#include "backend/test_util.h"

namespace quern::cpu {
namespace {

using namespace quern::testing;

std::unique_ptr<Backend> make(bool keep, int threads = 2) {
  return std::move(*make_cpu_backend({.threads = threads, .keep_packed = keep}));
}

std::vector<float> multiply(Backend& backend, const Weight& w, const TestTensor& x) {
  TestTensor out(x.view.rows, w.rows);
  backend.matmul(out.view, w, x.view);
  return out.values;
}

/// All matrices of the stack, two rows each.
std::vector<float> multiply_experts(Backend& backend, const Weight& w, const TestTensor& x) {
  std::vector<int32_t> expert, source;
  for (int32_t i = 0; i < 2 * w.experts; ++i) {
    expert.push_back(i / 2);
    source.push_back(i % static_cast<int32_t>(x.view.rows));
  }
  TestTensor out(2 * w.experts, w.rows);
  backend.matmul_experts(out.view, w, x.view, expert, source);
  return out.values;
}

std::unique_ptr<Weight> prepare(Backend& backend, const TestMatrix& m) {
  auto w = backend.prepare(m.tensor);
  EXPECT_TRUE(w.has_value()) << (w ? "" : w.error().message);
  return std::move(*w);
}

TEST(LateWeights, ResultsAreTheSameAtEveryUse) {
  auto never = make(false), later = make(true);
  for (const QuantInfo* info : all_quants()) {
    const TestMatrix m = random_matrix(*info, {530, 512}, 3);
    for (const int64_t batch : {1, 8, 600}) {
      const TestTensor x = TestTensor::random(batch, 512, 4);
      const auto raw = prepare(*never, m), fresh = prepare(*later, m), settled = prepare(*later, m);
      const auto expected = multiply(*never, *raw, x);
      for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(expected, multiply(*later, *fresh, x))) << info->name;
      later->settle();
      EXPECT_TRUE(same_bits(expected, multiply(*later, *settled, x))) << info->name;
      EXPECT_TRUE(same_bits(expected, multiply(*never, *raw, x))) << info->name;
    }
  }
}

TEST(LateWeights, ExpertsAreTheSameAtEveryUse) {
  auto never = make(false), later = make(true);
  for (const char* name : {"Q4_K", "Q6_K", "Q5_0", "Q8_0"}) {
    const TestMatrix m = random_matrix(*find_quant(name), {5, 37, 512}, 6);
    const TestTensor x = TestTensor::random(3, 512, 7);
    const auto raw = prepare(*never, m), fresh = prepare(*later, m);
    const auto expected = multiply_experts(*never, *raw, x);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(expected, multiply_experts(*later, *fresh, x))) << name;
    later->settle();
    EXPECT_TRUE(same_bits(expected, multiply_experts(*later, *fresh, x))) << name;
  }
}

TEST(LateWeights, MemoryIsPlannedAsItIsTaken) {
  for (const bool keep : {false, true}) {
    auto backend = make(keep);
    for (const DType dtype : {DType::F32, DType::F16, DType::Q4_0, DType::Q5_1, DType::Q8_0, DType::Q2_K,
                              DType::Q3_K, DType::Q4_K, DType::Q6_K, DType::Q8_K}) {
      TestMatrix m = random_matrix(*find_quant(dtype), {3, 37, 512}, 8);
      const auto w = prepare(*backend, m);
      const uint64_t own = w->bytes() > 0 ? w->bytes() : m.bytes.size();
      EXPECT_LE(backend->prepared_bytes(m.tensor), own) << dtype_name(dtype);
      EXPECT_GE(backend->prepared_bytes(m.tensor) + 64, own) << dtype_name(dtype);
    }
  }
}

TEST(LateWeights, BytesAreKnownBeforeTheyAreTaken) {
  const TestMatrix m = random_matrix(*find_quant("Q4_K"), {160, 512}, 8);
  auto never = make(false), later = make(true);
  EXPECT_EQ(prepare(*never, m)->bytes(), 0u);
  const auto w = prepare(*later, m);
  const size_t bytes = w->bytes();
  EXPECT_GE(bytes, m.bytes.size());
  later->settle();
  EXPECT_EQ(w->bytes(), bytes);
  EXPECT_NE(static_cast<const CpuWeight&>(*w).tiles(0), nullptr);
}

TEST(LateWeights, NothingOfTheFileIsReadOncePacked) {
  auto backend = make(true);
  for (const char* name : {"Q4_K", "Q5_1", "Q6_K"}) {
    TestMatrix m = random_matrix(*find_quant(name), {2, 33, 512}, 9);
    const TestTensor x = TestTensor::random(3, 512, 10);
    const auto w = prepare(*backend, m);
    const auto before = multiply_experts(*backend, *w, x);
    backend->settle();
    std::fill(m.bytes.begin(), m.bytes.end(), std::byte{0x5a});
    EXPECT_TRUE(same_bits(before, multiply_experts(*backend, *w, x))) << name;
  }
}

TEST(LateWeights, MayGoWhileTheyArePacked) {
  auto backend = make(true);
  const TestMatrix large = random_matrix(*find_quant("Q5_0"), {4, 700, 1024}, 11);
  const TestMatrix small = random_matrix(*find_quant("Q4_K"), {64, 512}, 12);
  const TestTensor x = TestTensor::random(2, 512, 13);
  const auto expected = multiply(*make(false), *prepare(*make(false), small), x);
  for (int round = 0; round < 30; ++round) {
    std::vector<std::unique_ptr<Weight>> weights;
    for (int i = 0; i < 4; ++i) weights.push_back(prepare(*backend, i % 2 == 0 ? large : small));
    if (round % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
    EXPECT_TRUE(same_bits(expected, multiply(*backend, *weights[3], x)));
    weights.erase(weights.begin() + round % 3);  // the one being packed, or one that waits
  }
  // The backend first: weights hold on to the packer.
  auto last = prepare(*backend, large);
  backend.reset();
}

TEST(LateWeights, OneModelLoadsWhileAnotherRuns) {
  auto backend = make(true);
  const TestMatrix running = random_matrix(*find_quant("Q4_K"), {200, 512}, 14);
  const TestMatrix loading = random_matrix(*find_quant("Q6_K"), {200, 512}, 15);
  const TestTensor x = TestTensor::random(4, 512, 16);
  const auto w = prepare(*backend, running);
  const auto expected = multiply(*backend, *w, x);
  std::jthread loader([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::vector<std::unique_ptr<Weight>> model;
      for (int i = 0; i < 5; ++i) model.push_back(prepare(*backend, loading));
    }
  });
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(same_bits(expected, multiply(*backend, *w, x)));
}

/// A weight that no thread packs.
std::unique_ptr<CpuWeight> left_alone(const TestMatrix& m, const std::shared_ptr<Packer>& packer) {
  for (;;) {
    auto weight = std::make_unique<CpuWeight>();
    weight->raw = m.tensor;
    weight->dtype = m.tensor.dtype;
    weight->rows = m.tensor.rows();
    weight->cols = m.tensor.cols();
    EXPECT_TRUE(weight->set_affine(packer));
    packer->remove(weight.get());
    if (weight->tiles(0) == nullptr) return weight;  // else its thread was quick
  }
}

// Under a steady load the packer's thread gets no core, whatever it has begun.
TEST(LateWeights, StepsTakeOverWhatThePackerHasBegun) {
  const TestMatrix m = random_matrix(*find_quant("Q5_K"), {300, 2048}, 19);  // 19 tiles
  const TestTensor x = TestTensor::random(3, 2048, 20);
  const auto expected = multiply(*make(false), *prepare(*make(false), m), x);
  for (const int64_t begun : {1, 5, 18, 19}) {
    auto backend = make(true);
    const Kernels& kernels = *available_kernels().front();
    const auto weight = left_alone(m, std::make_shared<Packer>(kernels));
    uint8_t* out = nullptr;  // this thread is the packer
    for (int64_t tile = 0; tile < begun; ++tile) {
      out = weight->claim_tile(0, tile);
      ASSERT_NE(out, nullptr) << begun;
      if (tile + 1 < begun) weight->pack_tile(kernels, 0, tile, out);  // it stands still in the last one
    }
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(expected, multiply(*backend, *weight, x))) << begun;
    EXPECT_EQ(weight->claim(0).matrix, nullptr) << begun;  // the rest of it is packed
    EXPECT_EQ(weight->tiles(0), nullptr) << begun;         // all but one tile

    weight->pack_tile(kernels, 0, begun - 1, out);
    EXPECT_EQ(weight->claim_tile(0, begun), nullptr) << begun;
    weight->publish(0);
    EXPECT_NE(weight->tiles(0), nullptr) << begun;
    EXPECT_TRUE(same_bits(expected, multiply(*backend, *weight, x))) << begun;
  }
}

TEST(LateWeights, WithoutMemoryTheyWork) {
  const TestMatrix m = random_matrix(*find_quant("Q4_K"), {16, 256}, 17);
  const TestTensor x = TestTensor::random(1, 256, 18);
  auto backend = make(true, 1);
  const auto expected = multiply(*backend, *prepare(*backend, m), x);
  // A stack whose packed form no address space holds, of which only the first matrix is there.
  RawTensor tensor = m.tensor;
  auto weight = std::make_unique<CpuWeight>();
  weight->raw = tensor;
  weight->rows = 16;
  weight->cols = 256;
  weight->dtype = tensor.dtype;
  weight->experts = int64_t{1} << 40;
  EXPECT_TRUE(weight->set_affine(std::make_shared<Packer>(*available_kernels().front())));
  weight->experts = 1;
  EXPECT_EQ(weight->bytes(), 0u);
  EXPECT_NE(weight->warning.find("memory"), std::string::npos) << weight->warning;
  EXPECT_TRUE(same_bits(expected, multiply(*backend, *weight, x)));
}

}  // namespace
}  // namespace quern::cpu
