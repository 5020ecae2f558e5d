// Products of every format, on devices with memory of their own, against exact arithmetic.
#include <gtest/gtest.h>

#include "backend/device_for_test.h"
#include "backend/test_util.h"
#include "quant/grouped_for_test.h"

namespace quern {
namespace {

using namespace quern::testing;

/// Halves as activations, f32 sums: far better than the 5e-4 that int8 activations are allowed.
constexpr double kMatmulLimit = 1e-6;

using Matmul = DeviceTest;
INSTANTIATE_TEST_SUITE_P(All, Matmul, ::testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

/// Products also with what Hopper has.
using Products = DeviceTest;
std::vector<std::string> device_names_and_hopper() {
  std::vector<std::string> names = device_names();
#ifdef QUERN_CUDA_EMULATED
  names.push_back("emulated_hopper");
#endif
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, Products, ::testing::ValuesIn(device_names_and_hopper()),
                         [](const auto& test) { return test.param; });

std::vector<float> multiply(Backend& backend, const Weight& w, const TestTensor& x,
                            const Vector* bias = nullptr, std::span<const float> before = {}) {
  const DeviceTensor in(backend, x.view.rows, x.view.cols, x.values);
  const DeviceTensor out(backend, x.view.rows, w.rows, before);
  backend.matmul(out.view, w, in.view, bias, !before.empty());
  return out.values();
}

struct Size {
  int64_t rows, cols, batch;
};

TEST_P(Products, MatmulOfEveryFormat) {
  uint32_t seed = 1;
  for (const QuantInfo* info : all_quants()) {
    const int64_t unit = info->block > 32 ? info->block : 32;
    std::vector<Size> sizes = {{20, unit, 1},      {33, 2 * unit, 3},  {16, 3 * unit, 8},
                               {130, 2 * unit, 9}, {20, 5 * unit, 32}, {70, 4 * unit, 65}};
    if (info->block == 1) sizes.insert(sizes.end(), {{9, 5, 2}, {17, 100, 5}, {5, 1, 40}});
    if (!emulated())
      sizes.insert(sizes.end(), {{300, 16 * unit, 17},
                                 {520, 8 * unit, 64},
                                 {129, 16 * unit, 128},
                                 {129, 4 * unit, 300},
                                 {144, 4096, 1},
                                 {144, 4096, 16}});
    for (const Size& size : sizes) {
      const TestMatrix m = random_matrix(*info, {size.rows, size.cols}, ++seed);
      const TestTensor x = TestTensor::random(size.batch, size.cols, ++seed);
      auto w = backend_->prepare(m.tensor);
      ASSERT_TRUE(w.has_value()) << w.error().message;
      EXPECT_LE(nmse(multiply(*backend_, **w, x), exact_matmul(m.exact, size.rows, size.cols, x.view)),
                kMatmulLimit)
          << fmt::format("{} {}x{} batch {}", info->name, size.rows, size.cols, size.batch);
    }
  }
}

/// Some outputs of each block, row by row, where all would take long to compute.
struct Sample {
  const TestMatrix& matrix;
  const TestTensor& x;
  std::vector<double> expected;

  Sample(const TestMatrix& m, const TestTensor& x) : matrix(m), x(x) {
    const auto cols = static_cast<size_t>(x.view.cols);
    for (int64_t n = kFirst; n < rows(); n += kStep) {
      const auto row = std::span(m.exact).subspan(static_cast<size_t>(n) * cols, cols);
      const auto one = exact_matmul(row, 1, x.view.cols, x.view);
      expected.insert(expected.end(), one.begin(), one.end());
    }
  }
  double error_of(Backend& backend) const {
    const auto w = backend.prepare(matrix.tensor);
    if (!w) return NAN;
    const auto all = multiply(backend, **w, x);
    std::vector<float> got;
    for (int64_t n = kFirst; n < rows(); n += kStep)
      for (int64_t r = 0; r < x.view.rows; ++r) got.push_back(all[static_cast<size_t>(r * rows() + n)]);
    return nmse(got, expected);
  }

 private:
  static constexpr int64_t kFirst = 5, kStep = 61;
  int64_t rows() const { return matrix.tensor.shape[0]; }
};

/// Enough outputs that no kernel of many columns gives way to one of fewer (cuda_matmul.cc).
TEST_P(Products, MatmulOfManyOutputs) {
  if (GetParam() == "emulated") GTEST_SKIP() << "without wgmma there is one wide kernel";
  const int64_t rows = emulated() ? 560 : 17000;
  for (const char* name : {"Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "Q8_0", "F16"}) {
    const QuantInfo& info = *find_quant(name);
    const int64_t cols = info.block > 64 ? info.block : 64;
    const TestMatrix m = random_matrix(info, {rows, cols}, 31);
    for (const int64_t batch : {16, 32, 64, 128, 256}) {
      const TestTensor x = TestTensor::random(batch, cols, 32);
      EXPECT_LE(Sample(m, x).error_of(*backend_), kMatmulLimit) << name << " batch " << batch;
    }
  }
}

/// Blocks that use every stage of their ring several times: so many outputs that K is not split.
TEST_P(Products, MatmulOfManyUnits) {
  if (GetParam() == "emulated") GTEST_SKIP() << "the ring is Hopper's";
  const int64_t rows = emulated() ? 560 : 17000, cols = emulated() ? 1664 : 2048;
  for (const char* name : {"Q4_0", "Q8_0"}) {
    const TestMatrix m = random_matrix(*find_quant(name), {rows, cols}, 35);
    for (const int64_t batch : {16, 64, 128, 256}) {
      if (emulated() && batch > 64) break;
      const TestTensor x = TestTensor::random(batch, cols, 36);
      const Sample sample(m, x);
      for (const int cluster : {1, 2, 4}) {
        const auto backend = device_backend(GetParam(), {.hopper_cluster = cluster});
        ASSERT_TRUE(backend.has_value()) << backend.error().message;
        EXPECT_LE(sample.error_of(**backend), kMatmulLimit)
            << fmt::format("{} batch {} in clusters of {}", name, batch, cluster);
      }
    }
  }
}

/// Blocks that copy activations for each other: odd numbers of blocks, several chunks of rows, splits of K.
TEST_P(Products, MatmulInClusters) {
  if (GetParam() == "emulated") GTEST_SKIP() << "clusters are Hopper's";
  for (const int cluster : {2, 4}) {
    const auto clustered = device_backend(GetParam(), {.hopper_cluster = cluster});
    ASSERT_TRUE(clustered.has_value()) << clustered.error().message;
    for (const char* name : {"Q4_0", "Q4_K", "Q8_0"}) {
      std::vector<Size> sizes = {{70, 1280, 9}, {300, 256, 17}, {700, 512, 60}, {129, 256, 300}};
      if (!emulated()) sizes.insert(sizes.end(), {{17000, 256, 128}, {17000, 256, 200}});
      for (const Size& size : sizes) {
        const TestMatrix m = random_matrix(*find_quant(name), {size.rows, size.cols}, 41);
        const TestTensor x = TestTensor::random(size.batch, size.cols, 42);
        auto w = (*clustered)->prepare(m.tensor);
        ASSERT_TRUE(w.has_value()) << w.error().message;
        EXPECT_LE(nmse(multiply(**clustered, **w, x), exact_matmul(m.exact, size.rows, size.cols, x.view)),
                  kMatmulLimit)
            << fmt::format("clusters of {}: {} {}x{} batch {}", cluster, name, size.rows, size.cols,
                           size.batch);
      }
    }
  }
}

TEST_P(Products, ThatDoNotDependOnTheBatch) {
  const auto invariant = device_backend(GetParam(), {.batch_invariant = true});
  ASSERT_TRUE(invariant.has_value()) << invariant.error().message;
  constexpr int64_t kCols = 512;  // enough for several splits of K
  for (const char* name : {"Q4_K", "Q8_0", "F16"}) {
    const TestMatrix m = random_matrix(*find_quant(name), {20, kCols}, 33);
    auto w = (*invariant)->prepare(m.tensor);
    ASSERT_TRUE(w.has_value()) << w.error().message;
    const TestTensor x = TestTensor::random(300, kCols, 34);
    const auto all = multiply(**invariant, **w, x);
    for (const int64_t count : {1, 8, 9, 33, 257}) {
      const int64_t first = 11;
      TestTensor part(count, kCols);
      std::copy_n(x.values.data() + first * kCols, count * kCols, part.values.data());
      const auto got = multiply(**invariant, **w, part);
      EXPECT_TRUE(std::equal(got.begin(), got.end(), all.begin() + first * 20)) << name << " rows " << count;
    }
  }
}

/// Activations that halves hold exactly, few enough that the sums stay exact, too, and 4-bit codes: what the
/// narrow kernel computes has no rounding but that of the scales' products.
TEST_P(Matmul, NarrowMatmulRoundsOnlySums) {
  for (const char* name : {"Q4_0", "Q4_K", "Q6_K", "Q8_0", "Q2_K", "Q3_K", "Q5_1", "F16"}) {
    const TestMatrix m = random_matrix(*find_quant(name), {33, 512}, 7);
    TestTensor x(4, 512);
    std::mt19937 rng(3);
    for (float& v : x.values) v = static_cast<float>(static_cast<int>(rng() % 255) - 127);
    auto w = backend_->prepare(m.tensor);
    ASSERT_TRUE(w.has_value());
    EXPECT_LE(nmse(multiply(*backend_, **w, x), exact_matmul(m.exact, 33, 512, x.view)), 1e-11) << name;
  }
}

TEST_P(Matmul, RangesOfActivationsAndWeights) {
  for (const char* name : {"Q4_0", "BF16", "F32", "Q8_K", "Q4_K"}) {
    for (const float scale : {1e-20f, 1e-6f, 1e6f, 1e20f}) {
      TestMatrix m = random_matrix(*find_quant(name), {16, 256}, 5);
      TestTensor x = TestTensor::random(3, 256, 6, scale);
      auto w = backend_->prepare(m.tensor);
      EXPECT_LE(nmse(multiply(*backend_, **w, x), exact_matmul(m.exact, 16, 256, x.view)), kMatmulLimit)
          << name << " " << scale;
    }
  }
  for (const char* name : {"BF16", "F32", "Q8_K"}) {  // whose numbers reach beyond those of halves
    for (const float scale : {1e-12f, 1e12f}) {
      const QuantInfo& info = *find_quant(name);
      TestMatrix m = random_matrix(info, {16, 256}, 5);
      std::vector<float> values = m.exact;
      for (float& v : values) v *= scale;
      info.encode(values.data(), m.bytes.data(), values.size(), nullptr);
      m.tensor.data = m.bytes;
      info.decode(m.bytes.data(), m.exact.data(), m.exact.size());
      const TestTensor x = TestTensor::random(3, 256, 6);
      auto w = backend_->prepare(m.tensor);
      EXPECT_LE(nmse(multiply(*backend_, **w, x), exact_matmul(m.exact, 16, 256, x.view)), kMatmulLimit)
          << name << " " << scale;
    }
  }
}

TEST_P(Matmul, ARowDoesNotDependOnItsNeighbours) {
  const TestMatrix m = random_matrix(*find_quant("Q4_K"), {48, 512}, 21);
  auto w = backend_->prepare(m.tensor);
  const TestTensor x = TestTensor::random(40, 512, 22);
  const auto rows = [&](int64_t first, int64_t count) {
    TestTensor part(count, 512);
    std::copy_n(x.values.data() + first * 512, count * 512, part.values.data());
    return multiply(*backend_, **w, part);
  };
  const auto eight = rows(0, 8), thirty = rows(0, 30);
  for (const int64_t r : {0, 3, 7}) {
    EXPECT_TRUE(same_bits(rows(r, 1), std::span(eight).subspan(static_cast<size_t>(r * 48), 48)));
    const auto nine = rows(r, 9);
    EXPECT_TRUE(
        same_bits(std::span(nine).first(48), std::span(thirty).subspan(static_cast<size_t>(r * 48), 48)));
  }
}

TEST_P(Matmul, BiasAccumulateStridesAndMulti) {
  const TestMatrix a = random_matrix(*find_quant("Q4_K"), {40, 512}, 41);
  const TestMatrix b = random_matrix(*find_quant("Q6_K"), {24, 512}, 42);
  const TestMatrix c = random_matrix(*find_quant("Q4_K"), {50, 512}, 43);
  for (const int64_t batch : {6, 20}) {
    const TestTensor x = TestTensor::random(batch, 512, 44);
    const auto bias_values = random_floats(40, 45);
    const auto before = random_floats(static_cast<size_t>(batch * 40), 46);
    auto bias = backend_->prepare_vector(bias_values);
    auto wa = backend_->prepare(a.tensor), wb = backend_->prepare(b.tensor), wc = backend_->prepare(c.tensor);
    const auto plain = multiply(*backend_, **wa, x);
    const auto both = multiply(*backend_, **wa, x, bias->get(), before);
    for (size_t i = 0; i < both.size(); ++i)
      EXPECT_NEAR(both[i], before[i] + plain[i] + bias_values[i % 40], 1e-5 * (1 + std::fabs(plain[i])));

    const DeviceTensor in(*backend_, batch, 512, x.values);
    const std::vector<float> sevens(static_cast<size_t>(batch * 117), 7.0f);
    const DeviceTensor wide(*backend_, batch, 40 + 24 + 50 + 3, sevens, 5);
    const MatmulTarget targets[] = {{wide.view.slice_cols(0, 40), wa->get(), bias->get(), false},
                                    {wide.view.slice_cols(40, 24), wb->get(), nullptr, false},
                                    {wide.view.slice_cols(64, 50), wc->get(), nullptr, false}};
    backend_->matmul_multi(targets, in.view);
    const auto all = wide.values();
    const auto one = multiply(*backend_, **wa, x, bias->get());
    const auto two = multiply(*backend_, **wb, x), three = multiply(*backend_, **wc, x);
    for (int64_t r = 0; r < batch; ++r) {
      const float* row = all.data() + r * 117;
      // Splits of K depend on how many outputs are computed together.
      for (int64_t i = 0; i < 40; ++i) EXPECT_NEAR(row[i], one[r * 40 + i], 1e-3);
      for (int64_t i = 0; i < 24; ++i) EXPECT_NEAR(row[40 + i], two[r * 24 + i], 1e-3);
      for (int64_t i = 0; i < 50; ++i) EXPECT_NEAR(row[64 + i], three[r * 50 + i], 1e-3);
      for (int64_t i = 114; i < 117; ++i) EXPECT_EQ(row[i], 7.0f);
    }
  }
}

TEST_P(Matmul, Experts) {
  for (const char* name : {"Q4_K", "Q5_0", "F16", "Q6_K"}) {
    const int64_t rows = 21, cols = 256;
    const TestMatrix stack = random_matrix(*find_quant(name), {4, rows, cols}, 51);
    const TestTensor x = TestTensor::random(9, cols, 52);
    for (const int repeat : {1, 5}) {  // few rows an expert, and more than the narrow kernel takes
      std::vector<int32_t> expert, source;
      for (const int32_t e : {0, 2, 3})
        for (int i = 0; i < (e + 1) * repeat; ++i) {
          expert.push_back(e);
          source.push_back((5 * i + e) % 9);
        }
      const auto count = static_cast<int64_t>(expert.size());
      auto w = backend_->prepare(stack.tensor);
      const DeviceTensor in(*backend_, 9, cols, x.values), out(*backend_, count, rows);
      backend_->matmul_experts(out.view, **w, in.view, expert, source);
      const auto y = out.values();
      std::vector<double> expected;
      for (int64_t i = 0; i < count; ++i) {
        const auto matrix =
            std::span(stack.exact)
                .subspan(static_cast<size_t>(expert[i] * rows * cols), static_cast<size_t>(rows * cols));
        const auto row = exact_matmul(matrix, rows, cols, x.view.slice_rows(source[i], 1));
        expected.insert(expected.end(), row.begin(), row.end());
      }
      EXPECT_LE(nmse(y, expected), kMatmulLimit) << name << " " << repeat;
    }
  }
}

TEST_P(Matmul, MatmulOfGroupedMatrices) {
  for (const int bits : {2, 3, 4, 8})
    for (const bool symmetric : {true, false})
      for (const GroupOrder order : {GroupOrder::none, GroupOrder::shuffled, GroupOrder::uneven})
        for (const int64_t group : {int64_t{32}, int64_t{128}, int64_t{48}, int64_t{-1}}) {
          const GroupedSpec spec{bits, group, symmetric, order, group == 32};
          const GroupedParts parts = random_grouped(spec, 64, group == 48 ? 288 : 384, 11);
          const GroupedMatrix matrix = parts.matrix();
          const RawTensor tensor{"test",
                                 DType::Grouped,
                                 {parts.rows, parts.cols},
                                 std::as_bytes(std::span(parts.qweight)),
                                 &matrix};
          const auto w = backend_->prepare(tensor);
          ASSERT_TRUE(w.has_value()) << w.error().message;
          for (const int64_t batch : {1, 5, 20, 70}) {
            const TestTensor x = TestTensor::random(batch, parts.cols, 12);
            EXPECT_LE(
                nmse(multiply(*backend_, **w, x), exact_matmul(parts.exact, parts.rows, parts.cols, x.view)),
                kMatmulLimit)
                << fmt::format("{} bits, groups of {}, symmetric {}, order {}, batch {}", bits, group,
                               symmetric, static_cast<int>(order), batch);
            if (emulated() && batch > 5) break;
          }
        }
}

/// A matrix with act-order takes the activations in an order of its own; those beside it must not get them.
TEST_P(Products, MatricesWithAndWithoutOrderSideBySide) {
  constexpr int64_t kRows = 64, kCols = 256;
  const GroupedParts parts =
      random_grouped({.bits = 4, .group_size = 128, .order = GroupOrder::shuffled}, kRows, kCols, 14);
  const GroupedMatrix matrix = parts.matrix();
  const auto ordered = backend_->prepare(
      {"test", DType::Grouped, {kRows, kCols}, std::as_bytes(std::span(parts.qweight)), &matrix});
  ASSERT_TRUE(ordered.has_value()) << ordered.error().message;
  const TestMatrix q4 = random_matrix(*find_quant("Q4_0"), {kRows, kCols}, 15);
  const TestMatrix q8 = random_matrix(*find_quant("Q8_0"), {kRows, kCols}, 16);
  const auto first = backend_->prepare(q8.tensor), last = backend_->prepare(q4.tensor);
  const auto gain = backend_->prepare_vector(std::vector<float>(kCols, 1.0f));
  for (const int64_t batch : {4, 20}) {
    const TestTensor x = TestTensor::random(batch, kCols, 17);
    const DeviceTensor in(*backend_, batch, kCols, x.values), norm(*backend_, batch, kCols);
    for (const Tensor from : {in.view, norm.view}) {
      const DeviceTensor a(*backend_, batch, kRows), b(*backend_, batch, kRows), c(*backend_, batch, kRows);
      const MatmulTarget targets[] = {
          {a.view, first->get()}, {b.view, ordered->get()}, {c.view, last->get()}};
      backend_->rms_norm(norm.view, in.view, **gain, 1e-5f);
      backend_->matmul_multi(targets, from);
      TestTensor taken(batch, kCols);
      backend_->read(taken.values.data(), from);
      const auto right = [&](std::span<const float> exact) {
        return exact_matmul(exact, kRows, kCols, taken.view);
      };
      EXPECT_LE(nmse(a.values(), right(q8.exact)), kMatmulLimit) << batch;
      EXPECT_LE(nmse(b.values(), right(parts.exact)), kMatmulLimit) << batch;
      EXPECT_LE(nmse(c.values(), right(q4.exact)), kMatmulLimit) << batch;
    }
  }
}

/// Few rows of each grouped matrix are looked at when it is loaded.
TEST_P(Matmul, AGroupedMatrixThatIsNotFiniteIsRefused) {
  GroupedParts parts = random_grouped({.bits = 4, .group_size = 32}, 64, 64, 13);
  const uint16_t infinity = 0x7c00;
  std::memcpy(parts.scales.data() + 2 * 63, &infinity, 2);  // the last row's first group
  const GroupedMatrix matrix = parts.matrix();
  const auto w = backend_->prepare(
      {"a.weight", DType::Grouped, {64, 64}, std::as_bytes(std::span(parts.qweight)), &matrix});
  ASSERT_FALSE(w.has_value());
  EXPECT_EQ(w.error().code, ErrorCode::corrupt);
  EXPECT_NE(w.error().message.find("a.weight"), std::string::npos);
}

}  // namespace
}  // namespace quern
