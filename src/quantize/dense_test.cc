#include "quantize/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>

namespace quern {
namespace {

std::vector<float> random_values(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(n));
  for (float& v : values) v = normal(random);
  return values;
}

SquareMatrix random_square(int64_t n, uint32_t seed) {
  auto m = *SquareMatrix::create(n);
  std::ranges::copy(random_values(n * n, seed), m.row(0));
  return m;
}

struct Size {
  int64_t rows, cols, depth;
};

TEST(Dense, ProductsAreRightOnEveryIsaAtOddSizes) {
  for (const DenseKernels* kernels : available_dense_kernels()) {
    for (const Size s :
         {Size{1, 1, 1}, {5, 3, 7}, {12, 32, 1}, {145, 513, 300}, {300, 31, 257}, {64, 128, 5}}) {
      const auto a = random_values(s.rows * s.depth, 1), b = random_values(s.depth * s.cols, 2);
      for (const bool turned : {false, true}) {  // both lie transposed
        for (const bool upper : {false, true}) {
          const int64_t stride = s.cols + 3;
          const auto before = random_values(s.rows * stride, 3);
          auto out = before;
          DenseScratch scratch;
          multiply_add(*kernels, scratch,
                       {.rows = s.rows,
                        .cols = s.cols,
                        .depth = s.depth,
                        .a = turned ? Strided{a.data(), 1, s.rows} : Strided{a.data(), s.depth, 1},
                        .b = turned ? Strided{b.data(), 1, s.depth} : Strided{b.data(), s.cols, 1},
                        .sign = -1,
                        .out = out.data(),
                        .stride = stride,
                        .upper = upper});
          for (int64_t r = 0; r < s.rows; ++r) {
            for (int64_t c = 0; c < stride; ++c) {
              double expected = before[static_cast<size_t>(r * stride + c)];
              for (int64_t k = 0; c < s.cols && (!upper || c >= r) && k < s.depth; ++k)
                expected -=
                    static_cast<double>(a[static_cast<size_t>(turned ? k * s.rows + r : r * s.depth + k)]) *
                    b[static_cast<size_t>(turned ? c * s.depth + k : k * s.cols + c)];
              ASSERT_NEAR(out[static_cast<size_t>(r * stride + c)], expected, 1e-4)
                  << kernels->name << ' ' << s.rows << 'x' << s.cols << 'x' << s.depth << " at " << r << ", "
                  << c;
            }
          }
        }
      }
    }
  }
}

TEST(Dense, AddsScaledRows) {
  for (const DenseKernels* kernels : available_dense_kernels()) {
    for (const int64_t n : {0, 1, 15, 16, 37}) {
      auto y = random_values(40, 1);
      const auto x = random_values(40, 2), before = y;
      kernels->add_scaled(y.data(), x.data(), -0.5f, n);
      for (int64_t i = 0; i < 40; ++i) {
        const auto k = static_cast<size_t>(i);
        ASSERT_NEAR(y[k], i < n ? before[k] - 0.5f * x[k] : before[k], 1e-6) << kernels->name;
      }
    }
  }
}

TEST(Dense, SumsOfOuterProductsDoNotDependOnThreads) {
  constexpr int64_t kSize = 331, kCount = 45, kStride = 340;
  const auto x = random_values(kCount * kStride, 4);
  std::vector<SquareMatrix> sums;
  for (const int threads : {1, 3}) {
    auto dense = *Dense::create(threads);
    sums.push_back(*SquareMatrix::create(kSize));
    for (int i = 0; i < 2; ++i) dense->add_outer_products(sums.back(), x.data(), kCount, kStride);
  }
  for (int64_t i = 0; i < kSize; ++i) {
    for (int64_t j = 0; j < kSize; ++j) {
      double expected = 0;
      for (int64_t k = 0; k < kCount && j >= i; ++k)
        expected += 2.0 * x[static_cast<size_t>(k * kStride + i)] * x[static_cast<size_t>(k * kStride + j)];
      ASSERT_NEAR(sums[0].at(i, j), expected, 2e-4) << i << ", " << j;
      ASSERT_EQ(sums[0].at(i, j), sums[1].at(i, j));
    }
  }
}

TEST(Dense, FactorsWhatIsPositiveDefinite) {
  for (const int64_t n : {1, 2, 100, 128, 129, 700}) {
    auto dense = *Dense::create(2);
    // A random factor with a strong diagonal, and its product.
    const SquareMatrix random = random_square(n, 5);
    auto m = *SquareMatrix::create(n);
    const auto factor = [&](int64_t i, int64_t j) {
      return i == j ? 2 + std::abs(random.at(i, i))
                    : 0.5 * random.at(i, j) / std::sqrt(static_cast<double>(n));
    };
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = std::max(i, j); k < n; ++k) sum += factor(i, k) * factor(j, k);
        m.at(i, j) = j >= i ? static_cast<float>(sum) : 77;
      }
    }
    ASSERT_TRUE(dense->factor_upper(m)) << n;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) ASSERT_NEAR(m.at(i, j), j >= i ? factor(i, j) : 77, 1e-4) << n;
  }
}

TEST(Dense, SaysWhatHasNoFactor) {
  auto dense = *Dense::create(2);
  for (const int64_t bad : {0, 130, 299}) {
    auto m = *SquareMatrix::create(300);
    for (int64_t i = 0; i < 300; ++i) m.at(i, i) = i == bad ? -1.0f : 1.0f;
    EXPECT_FALSE(dense->factor_upper(m));
  }
}

}  // namespace
}  // namespace quern
