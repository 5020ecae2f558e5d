// Every op on every format and every ISA that this CPU has: against exact arithmetic, and, on the CPU, bit
// for bit against the scalar reference, whatever the batch and the number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "backend/isa_for_test.h"
#include "backend/test_util.h"

namespace quern {
namespace {

using namespace quern::testing;

INSTANTIATE_TEST_SUITE_P(All, Isa, ::testing::ValuesIn(isas()), isa_name);

std::vector<const QuantInfo*> formats() { return {all_quants().begin(), all_quants().end()}; }

std::vector<float> multiply(Backend& backend, const Weight& w, const TestTensor& x,
                            const Vector* bias = nullptr, const float* before = nullptr) {
  TestTensor out(x.view.rows, w.rows);
  if (before != nullptr) std::copy_n(before, out.values.size(), out.values.data());
  backend.matmul(out.view, w, x.view, bias, before != nullptr);
  return out.values;
}

struct Size {
  int64_t rows, cols, batch;
};

/// cols are multiplied by the format's block when it is larger than 32.
std::vector<Size> sizes(const QuantInfo& info) {
  std::vector<Size> out;
  const int64_t unit = info.block == 1 ? 1 : info.block;
  for (const int64_t batch : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33})
    out.push_back({20, unit > 32 ? unit : 96, batch});
  for (int64_t rows = 1; rows <= 33; rows += rows < 4 ? 1 : 7)
    out.push_back({rows, unit > 32 ? 2 * unit : 320, 3});
  for (const int64_t cols : {32, 64, 256, 288, 512, 1024})
    if (cols % unit == 0) out.push_back({17, cols, 2});
  if (unit == 1)
    for (const int64_t cols : {1, 5, 15, 17, 31, 100}) out.push_back({9, cols, 5});
  return out;
}

TEST_P(Isa, MatmulOfEveryFormat) {
  auto backend = make(GetParam());
  auto reference = make("scalar");
  uint32_t seed = 1;
  for (const QuantInfo* info : formats()) {
    const double limit = info->family == Family::floating ? 1e-10 : 5e-4;
    for (const Size& size : sizes(*info)) {
      const TestMatrix m = random_matrix(*info, {size.rows, size.cols}, ++seed);
      const TestTensor x = TestTensor::random(size.batch, size.cols, ++seed);
      auto w = backend->prepare(m.tensor);
      auto w_reference = reference->prepare(m.tensor);
      ASSERT_TRUE(w.has_value()) << w.error().message;
      const std::vector<float> y = multiply(*backend, **w, x);
      const auto where = fmt::format("{} {}x{} batch {}", info->name, size.rows, size.cols, size.batch);
      EXPECT_LE(nmse(y, exact_matmul(m.exact, size.rows, size.cols, x.view)), limit) << where;
      EXPECT_TRUE(same_bits(y, multiply(*reference, **w_reference, x))) << where;
    }
  }
}

/// With activations that int8 holds exactly (whole numbers, 127 in every unit), only the order of f32 sums is
/// left between the kernels and exact arithmetic.
TEST_P(Isa, MatmulIsExactUpToSumming) {
  auto backend = make(GetParam());
  for (const QuantInfo* info : formats()) {
    const TestMatrix m = random_matrix(*info, {33, 1024}, 7);
    TestTensor x(9, 1024);
    std::mt19937 rng(3);
    for (float& v : x.values) v = static_cast<float>(static_cast<int>(rng() % 255) - 127);
    for (size_t i = 0; i < x.values.size(); i += 32)
      x.values[i + rng() % 32] = rng() % 2 == 0 ? 127.0f : -127.0f;
    auto w = backend->prepare(m.tensor);
    ASSERT_TRUE(w.has_value());
    EXPECT_LE(nmse(multiply(*backend, **w, x), exact_matmul(m.exact, 33, 1024, x.view)), 1e-11) << info->name;
  }
}

/// All codes and all activations at their ends: nothing saturates on the way.
TEST_P(Isa, ExtremeCodesDoNotSaturate) {
  auto backend = make(GetParam());
  auto reference = make("scalar");
  for (const QuantInfo* info : formats()) {
    if (info->family == Family::floating) continue;
    TestMatrix m = random_matrix(*info, {16, 512}, 11);
    for (const uint8_t fill : {0x00, 0xff, 0x7f, 0x80}) {
      std::vector<std::byte> bytes = m.bytes;
      // All bits of everything but the scales: find those by writing the codes that decode to the ends.
      AffineBlock block;
      for (size_t b = 0; b < bytes.size(); b += info->bytes) {
        const std::vector<std::byte> before(bytes.begin() + b, bytes.begin() + b + info->bytes);
        for (size_t i = 0; i < info->bytes; ++i) {
          const std::byte old = bytes[b + i];
          info->unpack(&bytes[b], block);
          const AffineBlock was = block;
          bytes[b + i] = std::byte{fill};
          info->unpack(&bytes[b], block);
          // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): to the bit
          const bool scales_kept = std::memcmp(&was.d, &block.d, 4) == 0 && was.dmin == block.dmin &&
                                   std::memcmp(was.scale, block.scale, sizeof(was.scale)) == 0 &&
                                   std::memcmp(was.min, block.min, sizeof(was.min)) == 0;
          if (!scales_kept) bytes[b + i] = old;
        }
      }
      RawTensor tensor = m.tensor;
      tensor.data = bytes;
      std::vector<float> exact(m.exact.size());
      info->decode(bytes.data(), exact.data(), exact.size());
      TestTensor x(3, 512);
      for (size_t i = 0; i < x.values.size(); ++i)
        x.values[i] = i < 512 ? 1.0f : i < 1024 ? -1.0f : (i % 2 == 0 ? 1.0f : -1.0f);
      auto w = backend->prepare(tensor);
      auto w_reference = reference->prepare(tensor);
      const auto y = multiply(*backend, **w, x);
      EXPECT_TRUE(same_bits(y, multiply(*reference, **w_reference, x))) << info->name << " " << int{fill};
      const auto expected = exact_matmul(exact, 16, 512, x.view);
      for (size_t i = 0; i < 32; ++i)
        EXPECT_NEAR(y[i], expected[i], 1e-4 * std::fabs(expected[i]) + 1e-4)
            << info->name << " " << int{fill};
    }
  }
}

TEST_P(Isa, ARowIsTheSameAloneAndInABatch) {
  auto backend = make(GetParam());
  for (const QuantInfo* info : formats()) {
    const int64_t cols = info->block > 32 ? 512 : 416;
    const TestMatrix m = random_matrix(*info, {37, cols}, 21);
    auto w = backend->prepare(m.tensor);
    const TestTensor x = TestTensor::random(600, cols, 22);  // more than one column chunk
    const std::vector<float> all = multiply(*backend, **w, x);
    for (const int64_t first : {0, 1, 13, 255, 511, 512, 599}) {
      for (const int64_t count : {1, 2, 5, 21}) {
        if (first + count > 600) continue;
        TestTensor part(count, cols);
        std::copy_n(x.values.data() + first * cols, count * cols, part.values.data());
        const std::vector<float> some = multiply(*backend, **w, part);
        EXPECT_TRUE(same_bits(some, std::span(all).subspan(static_cast<size_t>(first * 37), some.size())))
            << info->name << " rows " << first << " + " << count;
      }
    }
  }
}

TEST_P(Isa, ThreadsDoNotChangeResults) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const int threads : {1, 2, 3, 7}) backends.push_back(make(GetParam(), threads));
  std::vector<int32_t> expert(19), source(19);
  for (int i = 0; i < 19; ++i) {
    expert[i] = i / 7;
    source[i] = 5 * i % 19;
  }
  const TestTensor x = TestTensor::random(19, 512, 32);
  for (const QuantInfo* info : formats()) {
    const TestMatrix m = random_matrix(*info, {3, 200, 512}, 31);
    std::vector<float> first;
    for (auto& backend : backends) {
      auto w = backend->prepare(m.tensor);
      TestTensor out(19, 200);
      backend->matmul_experts(out.view, **w, x.view, expert, source);
      if (first.empty()) first = out.values;
      EXPECT_TRUE(same_bits(first, out.values)) << info->name << " " << backend->description();
    }
  }
}

TEST_P(Isa, BiasAccumulateStridesAndMulti) {
  auto backend = make(GetParam(), 2);
  const TestMatrix a = random_matrix(*find_quant("Q4_K"), {40, 512}, 41);
  const TestMatrix b = random_matrix(*find_quant("Q6_K"), {24, 512}, 42);
  const TestMatrix c = random_matrix(*find_quant("F16"), {50, 512}, 43);
  const TestTensor x = TestTensor::random(6, 512, 44);
  const std::vector<float> bias_values = random_floats(40, 45), before = random_floats(6 * 40, 46);
  auto bias = backend->prepare_vector(bias_values);
  auto wa = backend->prepare(a.tensor), wb = backend->prepare(b.tensor), wc = backend->prepare(c.tensor);
  const auto plain = multiply(*backend, **wa, x);
  const auto both = multiply(*backend, **wa, x, bias->get(), before.data());
  for (size_t i = 0; i < both.size(); ++i) EXPECT_EQ(both[i], before[i] + (plain[i] + bias_values[i % 40]));

  // Into columns of one wide tensor, as a fused projection would.
  TestTensor wide(6, 40 + 24 + 50 + 3, 5);
  const MatmulTarget targets[] = {{wide.view.slice_cols(0, 40), wa->get(), bias->get(), false},
                                  {wide.view.slice_cols(40, 24), wb->get(), nullptr, false},
                                  {wide.view.slice_cols(64, 50), wc->get(), nullptr, false}};
  backend->matmul_multi(targets, x.view);
  const auto one = multiply(*backend, **wa, x, bias->get());
  const auto two = multiply(*backend, **wb, x), three = multiply(*backend, **wc, x);
  for (int64_t r = 0; r < 6; ++r) {
    for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(wide.at(r, i), one[r * 40 + i]);
    for (int64_t i = 0; i < 24; ++i) EXPECT_EQ(wide.at(r, 40 + i), two[r * 24 + i]);
    for (int64_t i = 0; i < 50; ++i) EXPECT_EQ(wide.at(r, 64 + i), three[r * 50 + i]);
    for (int64_t i = 114; i < 117; ++i) EXPECT_EQ(wide.at(r, i), 0.0f);
  }
}

TEST_P(Isa, ExpertsEqualSingleMatrices) {
  auto backend = make(GetParam(), 2);
  for (const char* name : {"Q4_K", "Q5_0", "F16", "F32"}) {
    const QuantInfo& info = *find_quant(name);
    const int64_t rows = 21, cols = 256;
    const TestMatrix stack = random_matrix(info, {4, rows, cols}, 51);
    const TestTensor x = TestTensor::random(9, cols, 52);
    const std::vector<int32_t> expert = {0, 0, 0, 2, 3, 3, 3, 3, 3, 3, 3};
    const std::vector<int32_t> source = {4, 5, 1, 8, 0, 1, 2, 3, 4, 6, 8};
    auto w = backend->prepare(stack.tensor);
    TestTensor out(11, rows);
    backend->matmul_experts(out.view, **w, x.view, expert, source);
    for (size_t i = 0; i < expert.size(); ++i) {
      RawTensor one = stack.tensor;
      one.shape = {rows, cols};
      one.data = one.data.subspan(expert[i] * stack.bytes.size() / 4, stack.bytes.size() / 4);
      auto single = backend->prepare(one);
      TestTensor in(1, cols);
      std::copy_n(x.values.data() + source[i] * cols, cols, in.values.data());
      EXPECT_TRUE(same_bits(multiply(*backend, **single, in), std::span(out.values).subspan(i * rows, rows)))
          << name << " " << i;
    }
  }
}

TEST_P(Isa, EmbedDecodesRows) {
  auto backend = make(GetParam(), 2);
  for (const QuantInfo* info : formats()) {
    const TestMatrix m = random_matrix(*info, {50, 256}, 61);
    const std::vector<int32_t> ids = {49, 0, 7, 7, 31};
    for (const bool table : {false, true}) {
      auto w = table ? backend->prepare_table(m.tensor) : backend->prepare(m.tensor);
      TestTensor out(5, 256, 3);
      backend->embed(out.view, **w, ids);
      for (int64_t r = 0; r < 5; ++r)
        for (int64_t c = 0; c < 256; ++c) EXPECT_EQ(out.at(r, c), m.exact[ids[r] * 256 + c]) << info->name;
      if (table) {
        EXPECT_EQ((*w)->bytes(), 0u);
      }
    }
  }
}

TEST_P(Isa, ElementWise) {
  auto backend = make(GetParam(), 2);
  auto reference = make("scalar");
  for (const int64_t cols : {1, 7, 16, 33, 64, 100, 2048}) {
    const TestTensor x = TestTensor::random(5, cols, 71, 3.0f), y = TestTensor::random(5, cols, 72);
    const auto gain_values = random_floats(static_cast<size_t>(cols), 73);
    TestTensor norm(5, cols), norm_r(5, cols), silu(5, cols), silu_r(5, cols), sum(5, cols);
    backend->rms_norm(norm.view, x.view, **backend->prepare_vector(gain_values), 1e-5f);
    reference->rms_norm(norm_r.view, x.view, **reference->prepare_vector(gain_values), 1e-5f);
    backend->silu_mul(silu.view, x.view, y.view);
    reference->silu_mul(silu_r.view, x.view, y.view);
    sum.values = x.values;
    sum.view.data = sum.values.data();
    backend->add(sum.view, y.view);
    EXPECT_TRUE(same_bits(norm.values, norm_r.values)) << cols;
    EXPECT_TRUE(same_bits(silu.values, silu_r.values)) << cols;
    std::vector<double> norm_e, silu_e;
    for (int64_t r = 0; r < 5; ++r) {
      double power = 0;
      for (int64_t c = 0; c < cols; ++c) power += static_cast<double>(x.at(r, c)) * x.at(r, c);
      for (int64_t c = 0; c < cols; ++c) {
        norm_e.push_back(x.at(r, c) / std::sqrt(power / cols + 1e-5) * gain_values[c]);
        silu_e.push_back(x.at(r, c) / (1 + std::exp(-static_cast<double>(x.at(r, c)))) * y.at(r, c));
        EXPECT_EQ(sum.at(r, c), x.at(r, c) + y.at(r, c));
      }
    }
    EXPECT_LE(nmse(norm.values, norm_e), 1e-12) << cols;
    EXPECT_LE(nmse(silu.values, silu_e), 1e-12) << cols;
  }
}

TEST_P(Isa, SiluAtTheEnds) {
  auto backend = make(GetParam());
  TestTensor gate(1, 8), up(1, 8);
  const float ends[] = {-1e30f, -200.f, -88.f, -20.f, 0.f, 20.f, 88.f, 1e30f};
  for (int i = 0; i < 8; ++i) gate.values[i] = ends[i], up.values[i] = 1;
  backend->silu_mul(gate.view, gate.view, up.view);
  for (int i = 0; i < 8; ++i) {
    const double expected = ends[i] / (1 + std::exp(-static_cast<double>(ends[i])));
    // −x / (1 + e^x) is as good as 0 where e^x leaves the range of f32.
    EXPECT_NEAR(gate.values[i], expected, 1e-6 * std::fabs(expected) + (ends[i] < -88 ? 1e30 : 1e-30))
        << ends[i];
    EXPECT_FALSE(std::isnan(gate.values[i]));
  }
}

TEST_P(Isa, NormByHeads) {
  auto backend = make(GetParam());
  const TestTensor x = TestTensor::random(3, 4 * 80, 81);
  auto gain = backend->prepare_vector(random_floats(80, 82));
  TestTensor all(3, 320), one(1, 80), out(1, 80);
  backend->rms_norm(all.view, x.view, **gain, 1e-6f);
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t h = 0; h < 4; ++h) {
      std::copy_n(x.values.data() + r * 320 + h * 80, 80, one.values.data());
      backend->rms_norm(out.view, one.view, **gain, 1e-6f);
      for (int64_t i = 0; i < 80; ++i) EXPECT_EQ(all.at(r, h * 80 + i), out.at(0, i));
    }
}

TEST_P(Isa, RopeRotatesPairs) {
  auto backend = make(GetParam(), 2);
  const std::vector<int32_t> positions = {0, 1, 17, 100000};
  for (const RopeStyle style : {RopeStyle::interleaved, RopeStyle::half_split}) {
    for (const float magnitude : {1.0f, 1.25f}) {
      const int64_t head_dim = 24, rotated = 16;
      std::vector<float> frequency;
      for (int i = 0; i < 8; ++i) frequency.push_back(std::pow(10000.0f, 2.0f * i / 16));
      auto f = backend->prepare_vector(frequency);
      TestTensor x = TestTensor::random(4, 3 * head_dim, 91);
      const std::vector<float> before = x.values;
      backend->rope(x.view, positions, **f, {style, head_dim, rotated, magnitude});
      for (int64_t r = 0; r < 4; ++r)
        for (int64_t h = 0; h < 3; ++h) {
          const float* old = before.data() + r * 72 + h * head_dim;
          for (int64_t i = 0; i < 8; ++i) {
            const int64_t a = style == RopeStyle::interleaved ? 2 * i : i;
            const int64_t b = style == RopeStyle::interleaved ? 2 * i + 1 : i + 8;
            const double angle = positions[r] / static_cast<double>(frequency[i]);
            EXPECT_NEAR(x.at(r, h * head_dim + a),
                        magnitude * (old[a] * std::cos(angle) - old[b] * std::sin(angle)), 1e-5);
            EXPECT_NEAR(x.at(r, h * head_dim + b),
                        magnitude * (old[a] * std::sin(angle) + old[b] * std::cos(angle)), 1e-5);
          }
          for (int64_t i = 16; i < head_dim; ++i) EXPECT_EQ(x.at(r, h * head_dim + i), old[i]);
        }
    }
  }
}

TEST_P(Isa, GatherScatterRead) {
  auto backend = make(GetParam(), 2);
  const TestTensor x = TestTensor::random(4, 70, 95);
  TestTensor out(3, 70), sum = TestTensor::random(2, 70, 96);
  const std::vector<float> before = sum.values;
  backend->gather_rows(out.view, x.view, std::vector<int32_t>{3, 0, 3});
  for (int64_t c = 0; c < 70; ++c) {
    EXPECT_EQ(out.at(0, c), x.at(3, c));
    EXPECT_EQ(out.at(1, c), x.at(0, c));
  }
  backend->scatter_add(sum.view, out.view, std::vector<int32_t>{1, 1, 0},
                       std::vector<float>{0.5f, 2.0f, -1.0f});
  for (int64_t c = 0; c < 70; ++c) {
    EXPECT_EQ(sum.at(0, c), std::fma(-1.0f, out.at(2, c), before[c]));
    EXPECT_EQ(sum.at(1, c), std::fma(2.0f, out.at(1, c), std::fma(0.5f, out.at(0, c), before[70 + c])));
  }
  std::vector<float> host(2 * 20);
  backend->read(host.data(), sum.view.slice_cols(50, 20));
  EXPECT_EQ(host[21], sum.at(1, 51));
  backend->write(sum.view.slice_cols(1, 20), host.data());
  EXPECT_EQ(sum.at(1, 2), host[21]);
  EXPECT_EQ(sum.at(1, 20), host[39]);
}

TEST_P(Isa, UnalignedFilesGiveTheSameBits) {
  auto backend = make(GetParam());
  for (const QuantInfo* info : formats()) {
    const TestMatrix m = random_matrix(*info, {5, 512}, 98);
    std::vector<std::byte> shifted(m.bytes.size() + 1);
    std::copy(m.bytes.begin(), m.bytes.end(), shifted.begin() + 1);
    RawTensor tensor = m.tensor;
    tensor.data = std::span(shifted).subspan(1);
    const TestTensor x = TestTensor::random(3, 512, 99);
    auto w = backend->prepare(m.tensor), w_shifted = backend->prepare(tensor);
    EXPECT_TRUE(same_bits(multiply(*backend, **w, x), multiply(*backend, **w_shifted, x))) << info->name;
    const std::vector<int32_t> ids = {4};
    TestTensor out(1, 512);
    backend->embed(out.view, **w_shifted, ids);
    EXPECT_TRUE(same_bits(out.values, std::span(m.exact).subspan(4 * 512))) << info->name;
  }
}

// ---- what is refused

TEST(CpuBackend, RefusesByName) {
  auto backend = make("scalar");
  EXPECT_TRUE(backend->supports(KvType::q8_0).has_value());
  const auto f8 = backend->supports(KvType::f8e4m3);
  ASSERT_FALSE(f8.has_value());
  EXPECT_NE(f8.error().message.find("f8e4m3"), std::string::npos);
  const auto isa = make_cpu_backend({.threads = 1, .isa = "avx1024"});
  ASSERT_FALSE(isa.has_value());
  EXPECT_NE(isa.error().message.find("scalar"), std::string::npos);
  const auto far = make_backend("cuda:4711");  // without the plug-in, without a driver, or without so many
  ASSERT_FALSE(far.has_value());
  EXPECT_TRUE(far.error().code == ErrorCode::unsupported || far.error().code == ErrorCode::unavailable);
  EXPECT_EQ(far.error().message.find("LLM_DEVICE: cuda: "), 0u) << far.error().message;
  EXPECT_EQ(make_backend("cuda:1x").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(make_backend("tpu").error().code, ErrorCode::invalid_argument);
}

TEST(CpuBackend, ForcedIsaIsReported) {
  setenv("QUERN_FORCE_ISA", "scalar", 1);
  EXPECT_EQ((*make_cpu_backend({.threads = 1}))->description(), "cpu (scalar, 1 thread)");
  setenv("QUERN_FORCE_ISA", "nonsense", 1);
  const auto backend = make_cpu_backend({.threads = 1});
  ASSERT_FALSE(backend.has_value());
  EXPECT_NE(backend.error().message.find("QUERN_FORCE_ISA"), std::string::npos);
  unsetenv("QUERN_FORCE_ISA");
}

TEST(CpuBackend, MalformedTensorsAreErrors) {
  auto backend = make("scalar");
  TestMatrix m = random_matrix(*find_quant("Q4_K"), {2, 256}, 1);
  RawTensor t = m.tensor;
  t.data = t.data.first(t.data.size() - 1);
  EXPECT_FALSE(backend->prepare(t).has_value());
  t = m.tensor;
  t.shape = {2, 255};
  EXPECT_FALSE(backend->prepare(t).has_value());
  t.shape = {512};
  EXPECT_FALSE(backend->prepare(t).has_value());
  t.shape = {0, 256};
  EXPECT_FALSE(backend->prepare(t).has_value());
  t = m.tensor;
  t.dtype = static_cast<DType>(77);
  EXPECT_EQ(backend->prepare(t).error().code, ErrorCode::unsupported);
  EXPECT_FALSE(backend->prepare_vector(t).has_value());
}

}  // namespace
}  // namespace quern
