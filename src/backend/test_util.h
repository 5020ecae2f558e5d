// Random matrices and exact references for the backends' tests.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/half.h"
#include "quant/quant.h"

namespace quern::testing {

inline std::vector<float> random_floats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(n);
  for (float& x : out) x = normal(rng);
  return out;
}

/// A stored matrix (or stack) with its bytes and its exact values.
struct TestMatrix {
  std::vector<std::byte> bytes;
  RawTensor tensor;
  std::vector<float> exact;
};

inline TestMatrix random_matrix(const QuantInfo& info, std::vector<int64_t> shape, uint32_t seed) {
  TestMatrix m;
  m.tensor.name = "test";
  m.tensor.dtype = info.dtype;
  m.tensor.shape = std::move(shape);
  const size_t n = static_cast<size_t>(m.tensor.elements());
  const std::vector<float> values = random_floats(n, seed, 0.5f);
  m.bytes.resize(n / info.block * info.bytes);
  info.encode(values.data(), m.bytes.data(), n, nullptr);
  m.tensor.data = m.bytes;
  m.exact.resize(n);
  info.decode(m.bytes.data(), m.exact.data(), n);
  return m;
}

/// Activations in memory that the tests own.
struct TestTensor {
  std::vector<float> values;
  Tensor view;
  TestTensor(int64_t rows, int64_t cols, int64_t padding = 0)
      : values(static_cast<size_t>(rows * (cols + padding))),
        view{values.data(), rows, cols, cols + padding} {}
  static TestTensor random(int64_t rows, int64_t cols, uint32_t seed, float scale = 1.0f) {
    TestTensor t(rows, cols);
    t.values = random_floats(t.values.size(), seed, scale);
    t.view.data = t.values.data();
    return t;
  }
  TestTensor(TestTensor&&) = default;
  float at(int64_t r, int64_t c) const { return values[static_cast<size_t>(r * view.stride + c)]; }
};

/// Σ(a − b)² / Σb².
inline double nmse(std::span<const float> a, std::span<const double> b) {
  double error = 0, power = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    power += b[i] * b[i];
  }
  return power > 0 ? error / power : error;
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

/// y[r, n] = Σ_k w[n, k] · x[r, k] in double.
inline std::vector<double> exact_matmul(std::span<const float> w, int64_t rows, int64_t cols,
                                        const Tensor& x) {
  std::vector<double> y(static_cast<size_t>(x.rows * rows));
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t n = 0; n < rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < cols; ++k)
        sum += static_cast<double>(w[static_cast<size_t>(n * cols + k)]) * x.data[r * x.stride + k];
      y[static_cast<size_t>(r * rows + n)] = sum;
    }
  return y;
}

}  // namespace quern::testing
