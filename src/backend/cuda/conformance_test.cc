// Every op but products (products_test.cc), on devices with memory of their own, against exact arithmetic.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "backend/device_for_test.h"
#include "backend/test_util.h"
#ifdef QUERN_CUDA_EMULATED
#include "backend/cuda/simt/hopper_emulator.h"
#endif
#include "core/best_of_row_for_test.h"

namespace quern {
namespace {

using namespace quern::testing;

using Device = DeviceTest;
INSTANTIATE_TEST_SUITE_P(All, Device, ::testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

TEST_P(Device, EmbedDecodesRows) {
  const std::vector<int32_t> ids = {49, 0, 7, 7, 31};
  for (const QuantInfo* info : all_quants()) {
    const TestMatrix m = random_matrix(*info, {50, 256}, 61);
    for (const bool table : {false, true}) {
      auto w = table ? backend_->prepare_table(m.tensor) : backend_->prepare(m.tensor);
      ASSERT_TRUE(w.has_value()) << w.error().message;
      EXPECT_GT((*w)->bytes(), 0u);
      const DeviceTensor out(*backend_, 5, 256, {}, 3);
      backend_->embed(out.view, **w, ids);
      const auto got = out.values();
      // A matrix of F32 is held as halves, Q8_K's f32 scales likewise.
      const bool rounded = info->dtype == DType::Q8_K || (info->dtype == DType::F32 && !table);
      for (size_t i = 0; i < got.size(); ++i) {
        const float expected = m.exact[static_cast<size_t>(ids[i / 256]) * 256 + i % 256];
        if (rounded)
          ASSERT_NEAR(got[i], expected, 1e-3 * std::fabs(expected) + 1e-6) << info->name;
        else
          ASSERT_EQ(got[i], expected) << info->name << " " << i;
      }
    }
  }
}

TEST_P(Device, ElementWise) {
  for (const int64_t cols : {1, 7, 33, 100, 2048}) {
    const TestTensor x = TestTensor::random(5, cols, 71, 3.0f), y = TestTensor::random(5, cols, 72);
    const auto gain_values = random_floats(static_cast<size_t>(cols), 73);
    const DeviceTensor a(*backend_, 5, cols, x.values, 2), b(*backend_, 5, cols, y.values);
    const DeviceTensor norm(*backend_, 5, cols), silu(*backend_, 5, cols);
    auto gain = backend_->prepare_vector(gain_values);
    backend_->rms_norm(norm.view, a.view, **gain, 1e-5f);
    backend_->silu_mul(silu.view, a.view, b.view);
    backend_->add(a.view, b.view);
    const auto sum = a.values();
    std::vector<double> norm_e, silu_e;
    for (int64_t r = 0; r < 5; ++r) {
      double power = 0;
      for (int64_t c = 0; c < cols; ++c) power += static_cast<double>(x.at(r, c)) * x.at(r, c);
      for (int64_t c = 0; c < cols; ++c) {
        norm_e.push_back(x.at(r, c) / std::sqrt(power / static_cast<double>(cols) + 1e-5) * gain_values[c]);
        silu_e.push_back(x.at(r, c) / (1 + std::exp(-static_cast<double>(x.at(r, c)))) * y.at(r, c));
        EXPECT_EQ(sum[r * cols + c], x.at(r, c) + y.at(r, c));
      }
    }
    EXPECT_LE(nmse(norm.values(), norm_e), 1e-12) << cols;
    EXPECT_LE(nmse(silu.values(), silu_e), 1e-12) << cols;
  }
}

TEST_P(Device, NormByHeadsInPlace) {
  const TestTensor x = TestTensor::random(3, 4 * 80, 81);
  const auto gain_values = random_floats(80, 82);
  auto gain = backend_->prepare_vector(gain_values);
  const DeviceTensor all(*backend_, 3, 320, x.values);
  backend_->rms_norm(all.view, all.view, **gain, 1e-6f);
  const auto got = all.values();
  std::vector<double> expected;
  for (int64_t i = 0; i < 12; ++i) {
    double power = 0;
    for (int64_t c = 0; c < 80; ++c) power += std::pow(static_cast<double>(x.values[i * 80 + c]), 2);
    for (int64_t c = 0; c < 80; ++c)
      expected.push_back(x.values[i * 80 + c] / std::sqrt(power / 80 + 1e-6) * gain_values[c]);
  }
  EXPECT_LE(nmse(got, expected), 1e-12);
}

TEST_P(Device, RopeRotatesPairs) {
  const std::vector<int32_t> positions = {0, 1, 17, 100000};
  const int64_t head_dim = 24, rotated = 16;
  std::vector<float> frequency;
  for (int i = 0; i < 8; ++i) frequency.push_back(std::pow(10000.0f, 2.0f * static_cast<float>(i) / 16));
  auto f = backend_->prepare_vector(frequency);
  for (const RopeStyle style : {RopeStyle::interleaved, RopeStyle::half_split}) {
    for (const float magnitude : {1.0f, 1.25f}) {
      const TestTensor before = TestTensor::random(4, 3 * head_dim, 91);
      const DeviceTensor x(*backend_, 4, 3 * head_dim, before.values);
      backend_->rope(x.view, positions, **f, {style, head_dim, rotated, magnitude});
      const auto got = x.values();
      for (int64_t r = 0; r < 4; ++r)
        for (int64_t h = 0; h < 3; ++h) {
          const float *old = before.values.data() + r * 72 + h * head_dim,
                      *now = got.data() + r * 72 + h * head_dim;
          for (int64_t i = 0; i < 8; ++i) {
            const int64_t a = style == RopeStyle::interleaved ? 2 * i : i;
            const int64_t b = style == RopeStyle::interleaved ? 2 * i + 1 : i + 8;
            const double angle = positions[static_cast<size_t>(r)] / static_cast<double>(frequency[i]);
            EXPECT_NEAR(now[a], magnitude * (old[a] * std::cos(angle) - old[b] * std::sin(angle)), 1e-5);
            EXPECT_NEAR(now[b], magnitude * (old[a] * std::sin(angle) + old[b] * std::cos(angle)), 1e-5);
          }
          for (int64_t i = 16; i < head_dim; ++i) EXPECT_EQ(now[i], old[i]);
        }
    }
  }
}

TEST_P(Device, GatherScatterReadWrite) {
  const TestTensor x = TestTensor::random(4, 70, 95), before = TestTensor::random(2, 70, 96);
  const DeviceTensor in(*backend_, 4, 70, x.values), out(*backend_, 3, 70),
      sum(*backend_, 2, 70, before.values);
  backend_->gather_rows(out.view, in.view, std::vector<int32_t>{3, 0, 3});
  const auto rows = out.values();
  backend_->scatter_add(sum.view, out.view, std::vector<int32_t>{1, 1, 0},
                        std::vector<float>{0.5f, 2.0f, -1.0f});
  const auto sums = sum.values();
  for (int64_t c = 0; c < 70; ++c) {
    EXPECT_EQ(rows[c], x.at(3, c));
    EXPECT_EQ(rows[70 + c], x.at(0, c));
    EXPECT_EQ(sums[c], std::fma(-1.0f, rows[140 + c], before.at(0, c)));
    EXPECT_EQ(sums[70 + c], std::fma(2.0f, rows[70 + c], std::fma(0.5f, rows[c], before.at(1, c))));
  }
  std::vector<float> part(2 * 20);
  backend_->read(part.data(), sum.view.slice_cols(50, 20));
  EXPECT_EQ(part[21], sums[70 + 51]);
}

TEST_P(Device, BestOfRows) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const auto check = [&](const TestTensor& x, const char* what) {
    const DeviceTensor in(*backend_, x.view.rows, x.view.cols, x.values, 3);
    std::vector<float> scale;
    for (int64_t r = 0; r < x.view.rows; ++r) scale.push_back(0.5f + static_cast<float>(r));
    std::vector<BestOfRow> found(scale.size());
    ASSERT_TRUE(backend_->best_of_rows(found, in.view, scale));
    for (size_t r = 0; r < found.size(); ++r) {
      const auto cols = static_cast<size_t>(x.view.cols);
      const BestOfRow expected = best_of_row(std::span(x.values).subspan(r * cols, cols), scale[r]);
      ASSERT_EQ(found[r].count, expected.count) << what;
      for (int i = 0; i < expected.count; ++i) {
        EXPECT_EQ(found[r].value[i], expected.value[i]) << what << " row " << r << " place " << i;
        EXPECT_EQ(found[r].column[i], expected.column[i]) << what << " row " << r << " place " << i;
      }
      EXPECT_NEAR(found[r].total, expected.total, 1e-5f * expected.total) << what;
    }
  };
  check(TestTensor::random(3, 9000, 121), "random");
  check(TestTensor::random(2, 128256, 122), "a large vocabulary");
  check(TestTensor::random(1, 50, 123), "fewer than are listed");
  TestTensor few = TestTensor::random(3, 2000, 124);
  for (size_t i = 0; i < few.values.size(); ++i)
    if (i % 100 != 7) few.values[i] = i % 3 == 0 ? kInf : i % 3 == 1 ? -kInf : std::nanf("");
  check(few, "most of them impossible");
  TestTensor equals = TestTensor::random(2, 5000, 125);
  for (float& v : equals.values) v = std::round(v * 8);  // some dozen values, each many times
  for (size_t i = 0; i < 700; ++i) equals.values[i * 7] = 40;
  check(equals, "700 equals at the top");
  TestTensor rising(2, 40000);
  for (size_t i = 0; i < rising.values.size(); ++i) rising.values[i] = static_cast<float>(i % 40000) / 1000;
  check(rising, "rising");

  TestTensor same(1, 5000);
  std::ranges::fill(same.values, 1.0f);
  const DeviceTensor in(*backend_, 1, 5000, same.values);
  BestOfRow found;
  found.count = 5;
  ASSERT_TRUE(backend_->best_of_rows({&found, 1}, in.view, std::vector<float>{1}));
  EXPECT_EQ(found.count, 0) << "too many equals to list";
}

// ---- what is refused

TEST_P(Device, RefusesByName) {
  EXPECT_TRUE(backend_->supports(KvType::f8e4m3).has_value());
  const auto q8 = backend_->supports(KvType::q8_0);
  ASSERT_FALSE(q8.has_value());
  EXPECT_NE(q8.error().message.find("q8_0"), std::string::npos);
  const auto too_much = backend_->alloc(size_t{1} << 46);
  ASSERT_FALSE(too_much.has_value());
  EXPECT_EQ(too_much.error().code, ErrorCode::resource_exhausted);
  ASSERT_TRUE(backend_->memory().has_value());
  EXPECT_GE(backend_->memory()->total, backend_->memory()->free);
}

#ifdef QUERN_CUDA_EMULATED
/// What the plug-in asks of a GPU before it is used, here of the emulator: GPTQ's forms are in it, too.
TEST(Cuda, SelfTest) {
  for (const bool hopper : {false, true}) {
    auto device = cuda::emulated_device(size_t{1} << 28, nullptr, hopper);
    const auto backend = cuda::make_device_backend(std::move(device), {}, true);
    EXPECT_TRUE(backend.has_value()) << (backend ? "" : backend.error().message);
  }
}

TEST(Cuda, WithoutHoppersKernelsWhereThoseFailTheSelfTest) {
  const auto open = [](bool tested) {
    auto device = cuda::emulated_device(size_t{1} << 28, nullptr, /*hopper=*/true);
    return cuda::make_device_backend(std::move(device), {}, tested);
  };
  const auto product = [](Backend& backend) {
    const TestMatrix m = random_matrix(*find_quant("Q8_0"), {700, 64}, 1);
    const auto weight = *backend.prepare(m.tensor);
    const DeviceTensor in(backend, 100, 64, random_floats(100 * 64, 2)), out(backend, 100, 700, {});
    backend.matmul(out.view, *weight, in.view);
    return out.values();
  };
  struct Fault {
    Fault() { cuda::hopper::products_are_lost = true; }
    ~Fault() { cuda::hopper::products_are_lost = false; }
  };
  std::optional<Fault> fault(std::in_place);
  const auto tested = open(true), trusting = open(false);
  ASSERT_TRUE(tested.has_value()) << tested.error().message;
  const std::vector<float> right = product(**tested), wrong = product(**trusting);
  fault.reset();
  EXPECT_NE((*tested)->description().find("failed the self-test"), std::string::npos);
  EXPECT_EQ(wrong, std::vector<float>(wrong.size(), 0.0f)) << "the fault changes nothing";
  const std::vector<float> sound = product(**open(false));
  for (size_t i = 0; i < sound.size(); ++i) ASSERT_NEAR(right[i], sound[i], 1e-2);
}
#endif

/// A kernel that writes where no memory is takes all that lies on the GPU with it: this runs alone. (The
/// emulator is made to fail under models: engine/device_host_test.cc.)
TEST(Cuda, AGpuThatFailedWorksAgain) {
  if (GTEST_FLAG_GET(filter).find("AGpuThatFailed") == std::string::npos)
    GTEST_SKIP() << "skipped: it takes the GPU down under the other tests; run it alone, by its name";
  const auto opened = open_cuda(0);
  if (!opened) GTEST_SKIP() << opened.error().message;
  Backend& backend = **opened;
  const std::vector<float> values(256, 1.5f);
  {
    const DeviceTensor in(backend, 1, 256, values);
    Tensor wild = in.view;
    wild.data += int64_t{1} << 40;
    backend.add(wild, in.view);
    const auto done = backend.end_step();
    ASSERT_FALSE(done.has_value());
    std::puts(done.error().message.c_str());
    EXPECT_TRUE(backend.failed());
    EXPECT_FALSE(backend.end_step().has_value()) << "nothing but a restart helps";
  }
  const auto restarted = backend.restart();
  ASSERT_TRUE(restarted.has_value()) << restarted.error().message;
  EXPECT_FALSE(backend.failed());
  const DeviceTensor in(backend, 1, 256, values), out(backend, 1, 256, values);
  backend.add(out.view, in.view);
  EXPECT_EQ(out.values(), std::vector<float>(256, 3.0f));
}

TEST_P(Device, MalformedTensorsAreErrors) {
  TestMatrix m = random_matrix(*find_quant("Q4_K"), {2, 256}, 1);
  RawTensor t = m.tensor;
  t.data = t.data.first(t.data.size() - 1);
  EXPECT_FALSE(backend_->prepare(t).has_value());
  t = m.tensor;
  t.shape = {2, 255};
  EXPECT_FALSE(backend_->prepare(t).has_value());
  t.shape = {512};
  EXPECT_FALSE(backend_->prepare(t).has_value());
  t.shape = {0, 256};
  EXPECT_FALSE(backend_->prepare(t).has_value());
  t = m.tensor;
  t.dtype = static_cast<DType>(77);
  EXPECT_EQ(backend_->prepare(t).error().code, ErrorCode::unsupported);
  EXPECT_FALSE(backend_->prepare_vector(t).has_value());
}

TEST_P(Device, PreparedBytesAreWhatIsTaken) {
  for (const QuantInfo* info : all_quants()) {
    const TestMatrix m = random_matrix(*info, {100, 512}, 3);
    const auto w = backend_->prepare(m.tensor);
    ASSERT_TRUE(w.has_value());
    EXPECT_NEAR(static_cast<double>((*w)->bytes()), static_cast<double>(backend_->prepared_bytes(m.tensor)),
                4 * 256)
        << info->name;
  }
}

}  // namespace
}  // namespace quern
