// The encoders of every ISA against the scalar reference, and all of them against llama.cpp's.
#include "quant/encode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "quant/encoder.h"
#include "quant/test_util.h"

namespace quern {
namespace {

struct ForcedIsa {
  explicit ForcedIsa(std::string_view name) { setenv("QUERN_FORCE_ISA", std::string(name).c_str(), 1); }
  ~ForcedIsa() { unsetenv("QUERN_FORCE_ISA"); }
};

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values)); }

std::vector<std::byte> encoded(const QuantInfo& to, const RawTensor& source,
                               std::span<const float> importance = {}) {
  std::vector<std::byte> out(
      *tensor_bytes(to.dtype, static_cast<uint64_t>(source.rows()), static_cast<uint64_t>(source.cols())));
  const auto done = encode_rows(to, source, 0, source.rows(), out.data(), importance);
  EXPECT_TRUE(done.has_value()) << done.error().message;
  return out;
}

std::vector<std::byte> reference(const QuantInfo& to, const std::vector<float>& x, int64_t cols,
                                 const float* importance) {
  std::vector<std::byte> out(x.size() / to.block * to.bytes);
  const auto row = static_cast<size_t>(cols);
  for (size_t i = 0; i < x.size(); i += row)
    to.encode(x.data() + i, out.data() + i / to.block * to.bytes, row, importance);
  return out;
}

constexpr int64_t kRows = 3;

/// Columns that are no whole number of tiles.
int64_t odd_cols(const QuantInfo& to) { return to.block == 256 ? 768 : 32 * 7; }

/// Of F16, or of the F16 scales that the reference has clamped.
bool beyond_range(const QuantInfo& to, const std::vector<float>& x, const std::vector<std::byte>& reference) {
  if (to.dtype == DType::F16) return std::ranges::any_of(x, [](float v) { return std::fabs(v) >= 65520; });
  if (to.family != Family::affine || to.affine.wide_d) return false;
  for (size_t at = 0; at < reference.size(); at += to.bytes) {
    AffineBlock block;
    to.unpack(reference.data() + at, block);
    if (std::fabs(block.d) == 65504 || std::fabs(block.dmin) == 65504) return true;
  }
  return false;
}

void expect_equal(const std::vector<float>& x, const std::vector<float>& importance, int64_t cols,
                  const QuantInfo& to, const std::string& what) {
  const float* weights = importance.empty() ? nullptr : importance.data();
  const auto wanted = reference(to, x, cols, weights);
  for (const Encoder* encoder : available_encoders()) {
    const ForcedIsa forced(encoder->name);
    const RawTensor source{"w", DType::F32, {kRows, cols}, bytes_of(x)};
    if (beyond_range(to, x, wanted)) {
      std::vector<std::byte> out(x.size() * to.bytes);
      const auto done = encode_rows(to, source, 0, kRows, out.data(), importance);
      ASSERT_FALSE(done.has_value()) << encoder->name << ' ' << what;
      EXPECT_EQ(done.error().code, ErrorCode::unsupported);
      continue;
    }
    const auto got = encoded(to, source, importance);
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(got[i], wanted[i]) << to.name << ' ' << encoder->name << ' ' << what << " byte " << i;
  }
}

std::vector<std::pair<std::string, std::vector<float>>> inputs(size_t n) {
  std::vector<std::pair<std::string, std::vector<float>>> all;
  const auto filled = [&](float v) { return std::vector<float>(n, v); };
  const auto normal = normal_values(n, 1, 11);
  all = {{"normal", normal},
         {"small", normal_values(n, 1e-5f)},
         {"tiny", normal_values(n, 1e-9f)},
         {"subnormal", normal_values(n, 1e-40f)},
         {"too large for f16", normal_values(n, 1e6f)},
         {"huge", normal_values(n, 1e37f)},
         {"zeros", filled(0)},
         {"negative zeros", filled(-0.0f)},
         {"constant", filled(3)},
         {"negative constant", filled(-0.7f)},
         {"smallest", filled(std::numeric_limits<float>::denorm_min())},
         {"largest", filled(std::numeric_limits<float>::max())}};
  auto changed = [&](const char* what, auto change) {
    auto x = normal;
    for (size_t i = 0; i < n; ++i) x[i] = change(x[i], i);
    all.emplace_back(what, std::move(x));
  };
  changed("positive", [](float v, size_t) { return std::fabs(v); });
  changed("negative", [](float v, size_t) { return -std::fabs(v) - 1; });
  changed("outliers", [](float v, size_t i) { return i % 71 == 5 ? 1000 * v : v; });
  changed("one value in a group", [](float v, size_t i) { return i % 32 == 9 ? v : 0; });
  changed("two levels", [](float v, size_t) { return v > 0 ? 1.0f : -1.0f; });
  changed("extremes of both signs", [](float, size_t i) { return i % 2 == 0 ? 2.0f : -2.0f; });
  changed("zero groups", [](float v, size_t i) { return i / 32 % 3 == 0 ? 0 : v; });
  changed("zero blocks", [](float v, size_t i) { return i / 256 % 2 == 0 ? 0 : v; });
  changed("widely different groups",
          [](float v, size_t i) { return v * std::exp2(static_cast<float>(i / 16 % 40) - 20); });
  return all;
}

TEST(Encode, EveryIsaGivesTheReferencesBits) {
  for (const QuantInfo* to : all_quants()) {
    const int64_t cols = odd_cols(*to);
    for (const auto& [what, x] : inputs(static_cast<size_t>(kRows * cols)))
      expect_equal(x, {}, cols, *to, what);
  }
}

TEST(Encode, EveryIsaGivesTheReferencesBitsWithImportance) {
  for (const QuantInfo* to : all_quants()) {
    const int64_t cols = odd_cols(*to);
    const auto n = static_cast<size_t>(cols);
    std::vector<float> even = normal_values(n, 1, 5);
    for (float& w : even) w = std::exp(1.5f * w);
    std::vector<std::vector<float>> importance = {even, std::vector<float>(n, 1e-30f),
                                                  std::vector<float>(n, 3e38f), std::vector<float>(n, 0.0f)};
    auto gaps = even;  // whole groups and blocks without any
    for (size_t i = 0; i < n; ++i) gaps[i] = i / 32 % 3 == 0 || i / 256 == 1 ? 0 : gaps[i];
    importance.push_back(gaps);
    for (size_t i = 0; i < importance.size(); ++i) {
      for (const auto& [what, x] : inputs(static_cast<size_t>(kRows * cols)))
        expect_equal(x, importance[i], cols, *to, what + ", importance " + std::to_string(i));
    }
  }
}

TEST(Encode, HalfPrecisionRowsAreConvertedOnTheWay) {
  for (const Encoder* encoder : available_encoders()) {
    const ForcedIsa forced(encoder->name);
    for (const QuantInfo* to : all_quants()) {
      const int64_t cols = odd_cols(*to);
      auto x = normal_values(static_cast<size_t>(kRows * cols), 0.02f);
      x[7] = 1e-6f;  // a subnormal f16
      for (const DType type : {DType::F16, DType::BF16}) {
        const QuantInfo& half = *find_quant(type);
        std::vector<std::byte> stored(x.size() * 2 + 1);
        half.encode(x.data(), stored.data() + 1, x.size(), nullptr);  // unaligned, as files may have them
        std::vector<float> wide(x.size());
        half.decode(stored.data() + 1, wide.data(), wide.size());
        const RawTensor source{"w", type, {kRows, cols}, std::span(stored).subspan(1)};
        EXPECT_EQ(encoded(*to, source), reference(*to, wide, cols, nullptr)) << to->name << encoder->name;
      }
    }
  }
}

TEST(Encode, RowsOfAQuantizedTensor) {
  const auto x = normal_values(static_cast<size_t>(kRows) * 768);
  for (const DType type : {DType::Q8_0, DType::Q6_K, DType::Q4_1}) {
    const QuantInfo& from = *find_quant(type);
    const auto stored = reference(from, x, 768, nullptr);
    std::vector<float> wide(x.size());
    from.decode(stored.data(), wide.data(), wide.size());
    for (const QuantInfo* to : all_quants()) {
      const RawTensor source{"w", type, {kRows, 768}, stored};
      EXPECT_EQ(encoded(*to, source), reference(*to, wide, 768, nullptr)) << to->name << " of " << from.name;
    }
  }
}

TEST(Encode, SomeRows) {
  const QuantInfo& to = *find_quant(DType::Q4_K);
  const auto x = normal_values(5 * 256);
  const RawTensor source{"w", DType::F32, {5, 256}, bytes_of(x)};
  const auto all = encoded(to, source);
  std::vector<std::byte> some(2 * to.bytes);
  ASSERT_TRUE(encode_rows(to, source, 3, 2, some.data()).has_value());
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + 3 * to.bytes));
  EXPECT_TRUE(encode_rows(to, source, 5, 0, nullptr).has_value());
}

TEST(Encode, ValuesThatAreNotFiniteAreNamed) {
  for (const Encoder* encoder : available_encoders()) {
    const ForcedIsa forced(encoder->name);
    for (const QuantInfo* to : all_quants()) {
      for (const DType type : {DType::F32, DType::F16, DType::BF16}) {
        for (const float bad :
             {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
              -std::numeric_limits<float>::infinity()}) {
          std::vector<float> x = normal_values(4 * 512);
          x[2 * 512 + 511] = bad;
          std::vector<std::byte> stored(x.size() * find_quant(type)->bytes);
          find_quant(type)->encode(x.data(), stored.data(), x.size(), nullptr);
          const RawTensor source{"blk.3.ffn_up.weight", type, {4, 512}, stored};
          std::vector<std::byte> out(x.size() * 4);
          const auto done = encode_rows(*to, source, 0, 4, out.data());
          ASSERT_FALSE(done.has_value()) << to->name << ' ' << encoder->name;
          EXPECT_EQ(done.error().message, "tensor blk.3.ffn_up.weight: row 2 has a value that is not finite");
          EXPECT_TRUE(encode_rows(*to, source, 3, 1, out.data()).has_value());
        }
      }
    }
  }
}

TEST(Encode, WeightsBeyondTheRangeOfF16ScalesAreNamed) {
  // 65504 times the furthest code, and for types with minimums a constant that no scale helps.
  const struct {
    DType dtype;
    float held, beyond;
  } cases[] = {{DType::Q8_0, 127 * 65000.0f, 127 * 66000.0f},
               {DType::Q4_0, 8 * 65000.0f, -8 * 66000.0f},
               {DType::Q5_0, 16 * 65000.0f, 16 * 66000.0f},
               {DType::Q4_1, 15 * 65000.0f, 15 * 66000.0f},
               {DType::Q4_1, -65000.0f, -66000.0f},
               {DType::Q2_K, 3 * 15 * 64000.0f, 3 * 15 * 67000.0f},
               {DType::Q4_K, 15 * 63 * 64000.0f, 15 * 63 * 67000.0f},
               {DType::Q6_K, 32 * 128 * 60000.0f, -32 * 128 * 67000.0f}};
  for (const Encoder* encoder : available_encoders()) {
    const ForcedIsa forced(encoder->name);
    for (const auto& [dtype, held, beyond] : cases) {
      const QuantInfo& to = *find_quant(dtype);
      auto x = normal_values(4 * 512);
      std::vector<std::byte> out(x.size() * 4);
      const RawTensor source{"blk.3.ffn_up.weight", DType::F32, {4, 512}, bytes_of(x)};
      x[2 * 512 + 300] = held;
      EXPECT_TRUE(encode_rows(to, source, 0, 4, out.data())) << to.name << ' ' << encoder->name;
      x[2 * 512 + 300] = beyond;
      for (const bool weighted : {false, true}) {
        const std::vector<float> importance(weighted ? 512 : 0, 1.0f);
        const auto done = encode_rows(to, source, 0, 4, out.data(), importance);
        ASSERT_FALSE(done) << to.name << ' ' << beyond << ' ' << encoder->name;
        EXPECT_EQ(done.error().code, ErrorCode::unsupported);
        EXPECT_EQ(
            done.error().message,
            fmt::format("tensor blk.3.ffn_up.weight: row 2 has the value {}, which is beyond the range of "
                        "{}, whose scales are F16: take BF16 or F32",
                        beyond, to.name));
      }
    }
  }
}

TEST(Encode, AnUnknownIsaIsRefused) {
  const ForcedIsa forced("sse9");
  const auto x = normal_values(256);
  std::vector<std::byte> out(1024);
  const RawTensor source{"w", DType::F32, {1, 256}, bytes_of(x)};
  EXPECT_FALSE(encode_rows(*find_quant(DType::Q4_K), source, 0, 1, out.data()).has_value());
}

// The roots of the mean squared error of llama.cpp's encoders (as of 2026) on these very values; the second
// ones weighted by importance.
TEST(Encode, ErrorsAreAtMostLlamaCpps) {
  const auto x = normal_values(256 * 64);
  constexpr size_t kCols = 1024;
  auto importance = normal_values(kCols, 1, 2);
  for (float& w : importance) w = std::exp(w);
  const struct {
    DType dtype;
    double plain, weighted;
  } peers[] = {{DType::Q4_0, 0.086259, 0.099267}, {DType::Q4_1, 0.078969, 0.081854},
               {DType::Q5_0, 0.042837, 0.048860}, {DType::Q5_1, 0.038118, 0.039421},
               {DType::Q8_0, 0.005356, 0.006870}, {DType::Q8_1, 0.005356, 0.006870},
               {DType::Q2_K, 0.299948, 0.306295}, {DType::Q3_K, 0.151094, 0.171734},
               {DType::Q4_K, 0.071808, 0.083059}, {DType::Q5_K, 0.036356, 0.041865},
               {DType::Q6_K, 0.017854, 0.020533}, {DType::Q8_K, 0.006887, 0.008785}};
  for (const auto& [dtype, plain, weighted] : peers) {
    const QuantInfo& info = *find_quant(dtype);
    for (const bool with : {false, true}) {
      const RawTensor source{"w", DType::F32, {static_cast<int64_t>(x.size() / kCols), kCols}, bytes_of(x)};
      const auto blocks =
          encoded(info, source, with ? std::span<const float>(importance) : std::span<const float>{});
      std::vector<float> y(x.size());
      info.decode(blocks.data(), y.data(), y.size());
      double sum = 0;
      for (size_t i = 0; i < x.size(); ++i)
        sum += (with ? importance[i % kCols] : 1) * std::pow(static_cast<double>(x[i]) - y[i], 2);
      EXPECT_LE(std::sqrt(sum / static_cast<double>(x.size())), 1.001 * (with ? weighted : plain))
          << info.name << with;
    }
  }
}

}  // namespace
}  // namespace quern
