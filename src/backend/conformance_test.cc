// Every op on every format and every ISA that this CPU has: against exact arithmetic, and, on the CPU, bit
// for bit against the scalar reference, whatever the batch and the number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/test_util.h"

namespace quern {
namespace {

using namespace quern::testing;

std::unique_ptr<Backend> make(std::string_view isa, int threads = 1) {
  auto backend = make_cpu_backend({.threads = threads, .isa = isa});
  EXPECT_TRUE(backend.has_value()) << (backend ? "" : backend.error().message);
  return std::move(*backend);
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const cpu::Kernels* k : cpu::available_kernels()) names.emplace_back(k->name);
  return names;
}

std::vector<const QuantInfo*> formats() { return {all_quants().begin(), all_quants().end()}; }

std::string isa_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
}

class Isa : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, Isa, ::testing::ValuesIn(isas()), isa_name);

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

// ---- attention

struct AttentionCase {
  int64_t heads, kv_heads, head_dim, block_size, window;
  KvType type;
};

/// A sequence whose keys and values are written, and whose queries are asked, in the chunks given.
struct Session {
  Session(Backend& backend, const AttentionCase& c, int64_t length, uint32_t seed)
      : backend(backend),
        c(c),
        shape{c.kv_heads, c.head_dim, c.block_size, c.type},
        k(TestTensor::random(length, c.kv_heads * c.head_dim, seed)),
        v(TestTensor::random(length, c.kv_heads * c.head_dim, seed + 1)),
        q(TestTensor::random(length, c.heads * c.head_dim, seed + 2)) {}
  Backend& backend;
  AttentionCase c;
  KvShape shape;
  TestTensor k, v, q;
};

std::vector<float> attend(Session& s, std::span<const int64_t> chunks, std::span<const int32_t> blocks,
                          int64_t pool_blocks) {
  std::vector<std::byte> cache(s.backend.kv_block_bytes(s.shape) * pool_blocks, std::byte{0xff});  // NaNs
  KvLayer layer{cache.data(), pool_blocks};
  TestTensor out(s.q.view.rows, s.q.view.cols);
  int64_t start = 0;
  for (const int64_t count : chunks) {
    const SequenceSlice slice{0, static_cast<int32_t>(count), static_cast<int32_t>(start), blocks};
    s.backend.kv_write(layer, s.shape, s.k.view.slice_rows(start, count), s.v.view.slice_rows(start, count),
                       std::span(&slice, 1));
    s.backend.attention(out.view.slice_rows(start, count), s.q.view.slice_rows(start, count), layer, s.shape,
                        {s.c.heads, 0.125f, s.c.window}, std::span(&slice, 1));
    start += count;
  }
  return out.values;
}

/// Rows from `first` on.
std::vector<double> exact_attention(const Session& s, int64_t first = 0) {
  const int64_t length = s.q.view.rows, dim = s.c.head_dim, group = s.c.heads / s.c.kv_heads;
  std::vector<double> out;
  for (int64_t r = first; r < length; ++r)
    for (int64_t h = 0; h < s.c.heads; ++h) {
      const int64_t from = s.c.window > 0 ? std::max<int64_t>(0, r - s.c.window + 1) : 0;
      std::vector<double> weight;
      double total = 0;
      for (int64_t t = from; t <= r; ++t) {
        double dot = 0;
        for (int64_t d = 0; d < dim; ++d)
          dot += static_cast<double>(s.q.at(r, h * dim + d)) * s.k.at(t, h / group * dim + d);
        weight.push_back(std::exp(dot * 0.125));
        total += weight.back();
      }
      for (int64_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (int64_t t = from; t <= r; ++t) sum += weight[t - from] * s.v.at(t, h / group * dim + d);
        out.push_back(sum / total);
      }
    }
  return out;
}

TEST_P(Isa, Attention) {
  auto backend = make(GetParam(), 2);
  auto reference = make("scalar");
  const AttentionCase cases[] = {{8, 2, 64, 32, 0, KvType::f16},   {4, 4, 80, 32, 0, KvType::f16},
                                 {6, 2, 96, 16, 0, KvType::q8_0},  {4, 1, 128, 32, 7, KvType::f16},
                                 {2, 1, 256, 8, 33, KvType::q8_0}, {5, 5, 20, 24, 0, KvType::f16},
                                 {71, 1, 16, 32, 0, KvType::f16},  {4, 2, 80, 20, 1, KvType::q8_0},
                                 {7, 1, 64, 80, 0, KvType::f16},   {9, 3, 48, 64, 40, KvType::q8_0}};
  for (const AttentionCase& c : cases) {
    const int64_t length = 75, blocks = (length + c.block_size - 1) / c.block_size;
    std::vector<int32_t> table;
    for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>((i * 7 + 3) % (blocks + 1)));
    std::sort(table.begin(), table.end());
    table.erase(std::unique(table.begin(), table.end()), table.end());
    for (int32_t i = 0; static_cast<int64_t>(table.size()) < blocks; ++i)
      if (std::find(table.begin(), table.end(), i) == table.end()) table.push_back(i);
    std::reverse(table.begin(), table.end());
    Session s(*backend, c, length, 101), r(*reference, c, length, 101);
    const std::string where = fmt::format("{}/{} heads of {}, block {}, window {}", c.heads, c.kv_heads,
                                          c.head_dim, c.block_size, c.window);
    const auto whole = attend(s, std::vector<int64_t>{length}, table, blocks + 1);
    EXPECT_LE(nmse(whole, exact_attention(s)), c.type == KvType::f16 ? 1e-6 : 5e-4) << where;
    EXPECT_TRUE(same_bits(whole, attend(r, std::vector<int64_t>{length}, table, blocks + 1))) << where;
    EXPECT_TRUE(same_bits(whole, attend(s, std::vector<int64_t>(length, 1), table, blocks + 1))) << where;
    EXPECT_TRUE(same_bits(whole, attend(s, std::vector<int64_t>{13, 1, 1, 40, 20}, table, blocks + 1)))
        << where;
  }
}

/// Asks for rows from `first` on, whose queries come in chunks of `count`, when all keys and values are
/// there.
std::vector<float> ask(Session& s, int64_t first, int64_t count, std::span<const int32_t> blocks) {
  const auto pool_blocks = std::ssize(blocks);
  std::vector<std::byte> cache(s.backend.kv_block_bytes(s.shape) * blocks.size());
  KvLayer layer{cache.data(), pool_blocks};
  const int64_t length = s.q.view.rows;
  const SequenceSlice all{0, static_cast<int32_t>(length), 0, blocks};
  s.backend.kv_write(layer, s.shape, s.k.view, s.v.view, std::span(&all, 1));
  TestTensor out(length - first, s.q.view.cols);
  for (int64_t start = first; start < length; start += count) {
    const int64_t rows = std::min(count, length - start);
    const SequenceSlice slice{0, static_cast<int32_t>(rows), static_cast<int32_t>(start), blocks};
    s.backend.attention(out.view.slice_rows(start - first, rows), s.q.view.slice_rows(start, rows), layer,
                        s.shape, {s.c.heads, 0.125f, s.c.window}, std::span(&slice, 1));
  }
  return out.values;
}

TEST_P(Isa, AttentionOverSeveralStretches) {
  // Some 1024 tokens are a stretch: what several give is put together in their order, whether threads shared
  // them (many threads, one KV head) or not, however many rows were asked for at once, and also where a
  // window begins in a later one than the first.
  const AttentionCase cases[] = {
      {3, 1, 32, 32, 0, KvType::f16}, {2, 1, 48, 24, 0, KvType::q8_0}, {2, 2, 16, 32, 1030, KvType::f16}};
  auto alone = make(GetParam(), 1), many = make(GetParam(), 5), reference = make("scalar");
  for (const AttentionCase& c : cases) {
    const int64_t length = 2090, blocks = (length + c.block_size - 1) / c.block_size;
    std::vector<int32_t> table;
    for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>(blocks - 1 - i));
    Session s(*alone, c, length, 301), m(*many, c, length, 301), r(*reference, c, length, 301);
    const std::string where = fmt::format("{} heads of {}, window {}", c.heads, c.head_dim, c.window);
    const int64_t first = 2030;  // a window of 1030 begins before, at and behind position 1024
    const auto one_by_one = ask(s, first, 1, table);
    EXPECT_LE(nmse(one_by_one, exact_attention(s, first)), c.type == KvType::f16 ? 1e-6 : 5e-4) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(s, first, 60, table))) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(m, first, 1, table))) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(m, first, 7, table))) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(r, first, 60, table))) << where;
  }
}

TEST_P(Isa, AttentionOfSeveralSequencesEqualsEachAlone) {
  auto backend = make(GetParam(), 2);
  const AttentionCase c{8, 2, 64, 32, 0, KvType::f16};
  const KvShape shape{2, 64, 32, KvType::f16};
  std::vector<std::byte> cache(backend->kv_block_bytes(shape) * 10);
  KvLayer layer{cache.data(), 10};
  Session a(*backend, c, 50, 201), b(*backend, c, 37, 211);
  const std::vector<int32_t> blocks_a = {7, 2}, blocks_b = {0, 9};
  const auto alone_a = attend(a, std::vector<int64_t>{50}, blocks_a, 10);
  const auto alone_b = attend(b, std::vector<int64_t>{37}, blocks_b, 10);
  TestTensor k(87, 128), v(87, 128), q(87, 512), out(87, 512);
  const auto join = [](TestTensor& to, const TestTensor& x, const TestTensor& y) {
    std::copy(x.values.begin(), x.values.end(), to.values.begin());
    std::copy(y.values.begin(), y.values.end(), to.values.begin() + static_cast<int64_t>(x.values.size()));
  };
  join(k, a.k, b.k), join(v, a.v, b.v), join(q, a.q, b.q);
  const SequenceSlice slices[] = {{0, 50, 0, blocks_a}, {50, 37, 0, blocks_b}};
  backend->kv_write(layer, shape, k.view, v.view, slices);
  backend->attention(out.view, q.view, layer, shape, {8, 0.125f, 0}, slices);
  EXPECT_TRUE(same_bits(std::span(out.values).first(alone_a.size()), alone_a));
  EXPECT_TRUE(same_bits(std::span(out.values).subspan(alone_a.size()), alone_b));

  backend->kv_copy_block(layer, shape, 2, 5);
  const std::vector<int32_t> moved = {7, 5};
  const SequenceSlice slice{0, 50, 0, moved};
  backend->attention(out.view.slice_rows(0, 50), a.q.view, layer, shape, {8, 0.125f, 0},
                     std::span(&slice, 1));
  EXPECT_TRUE(same_bits(std::span(out.values).first(alone_a.size()), alone_a));
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
