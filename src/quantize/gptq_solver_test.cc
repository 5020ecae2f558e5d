#include "quantize/gptq_solver.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <numeric>
#include <random>

#include "core/half.h"

namespace quern {
namespace {

using Matrix = std::vector<std::vector<double>>;

/// What the solver works on: weights, and inputs that depend on each other.
struct Problem {
  int64_t rows, cols;
  std::vector<float> weights, inputs;  // [rows][cols], [count][cols]
  int64_t count;

  Problem(int64_t outputs, int64_t width, int64_t samples, uint32_t seed)
      : rows(outputs), cols(width), count(samples) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    weights.resize(static_cast<size_t>(rows * cols));
    for (float& w : weights) w = normal(random);
    for (int64_t s = 0; s < count; ++s) {
      const float common = normal(random);
      for (int64_t c = 0; c < cols; ++c)
        inputs.push_back((normal(random) + common) * (1 + static_cast<float>((c * 7) % 5)));
    }
  }
  SquareMatrix products(Dense& dense) const {
    auto h = *SquareMatrix::create(cols);
    dense.add_outer_products(h, inputs.data(), count, cols);
    return h;
  }
  /// H with its damping, in the inputs' own order.
  Matrix hessian(double damping) const {
    Matrix h(static_cast<size_t>(cols), std::vector<double>(static_cast<size_t>(cols)));
    double mean = 0;
    for (size_t i = 0; i < h.size(); ++i) {
      for (size_t j = 0; j < h.size(); ++j)
        for (int64_t s = 0; s < count; ++s)
          h[i][j] += static_cast<double>(inputs[static_cast<size_t>(s * cols) + i]) *
                     inputs[static_cast<size_t>(s * cols) + j];
      mean += h[i][i] / static_cast<double>(cols);
    }
    for (size_t i = 0; i < h.size(); ++i) h[i][i] += damping * mean;
    return h;
  }
};

/// tr(E H Eᵀ) of rows of errors.
double output_error(const Matrix& h, std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  const size_t n = h.size();
  for (size_t row = 0; row < a.size(); row += n)
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j)
        sum += (static_cast<double>(a[row + i]) - b[row + i]) * h[i][j] *
               (static_cast<double>(a[row + j]) - b[row + j]);
  return sum;
}

struct Solved {
  GptqMatrix matrix;
  std::vector<float> values;
};

Solved solve(Dense& dense, const Problem& problem, const GptqFormat& format, const GptqFactor& factor) {
  Solved solved{{}, problem.weights};
  solved.matrix = gptq_solve(dense, factor, format, solved.values.data(), problem.rows);
  return solved;
}

Matrix inverse(Matrix m) {
  const size_t n = m.size();
  Matrix out(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) out[i][i] = 1;
  for (size_t i = 0; i < n; ++i) {  // positive definite: no pivots
    const double pivot = m[i][i];
    for (size_t j = 0; j < n; ++j) m[i][j] /= pivot, out[i][j] /= pivot;
    for (size_t r = 0; r < n; ++r) {
      const double factor = m[r][i];
      for (size_t j = 0; r != i && j < n; ++j) m[r][j] -= factor * m[i][j], out[r][j] -= factor * out[i][j];
    }
  }
  return out;
}

/// The algorithm as the paper writes it, in double: all later columns are updated after each.
Solved paper(const Problem& problem, const GptqFormat& format, const std::vector<int32_t>& order,
             double damping) {
  const auto n = static_cast<size_t>(problem.cols);
  const auto group = static_cast<size_t>(format.group_of(problem.cols));
  const Matrix own = problem.hessian(damping);
  Matrix h(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j)
      h[i][j] = own[static_cast<size_t>(order[i])][static_cast<size_t>(order[j])];
  // U, upper, with UᵀU = H⁻¹.
  const Matrix inv = inverse(h);
  Matrix u(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) {
      double sum = inv[i][j];
      for (size_t k = 0; k < i; ++k) sum -= u[k][i] * u[k][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  }
  Solved out;
  out.values.resize(problem.weights.size());
  out.matrix.codes.resize(problem.weights.size());
  for (size_t r = 0; r < static_cast<size_t>(problem.rows); ++r) {
    std::vector<double> w(n);
    for (size_t j = 0; j < n; ++j) w[j] = problem.weights[r * n + static_cast<size_t>(order[j])];
    GptqGrid grid;
    for (size_t j = 0; j < n; ++j) {
      if (j % group == 0) {
        std::vector<float> now, importance;
        for (size_t k = j; k < j + group; ++k) {
          now.push_back(static_cast<float>(w[k]));
          importance.push_back(static_cast<float>(1 / (u[k][k] * u[k][k])));
        }
        grid = choose_grid(format, now, importance);
      }
      const int code = grid.code(static_cast<float>(w[j]), format.largest_code());
      const size_t to = r * n + static_cast<size_t>(order[j]);
      out.matrix.codes[to] = static_cast<uint8_t>(code);
      out.values[to] = grid.value(code);
      const double error = (w[j] - grid.value(code)) / u[j][j];
      for (size_t k = j; k < n; ++k) w[k] -= error * u[j][k];
    }
  }
  return out;
}

GptqFormat format_of(int bits, int64_t group, bool act_order = false, bool symmetric = true) {
  return {.bits = bits, .group = group, .symmetric = symmetric, .act_order = act_order};
}

TEST(Gptq, TypesHaveNames) {
  const auto format = parse_gptq_type("GPTQ-3bit-64g");
  ASSERT_TRUE(format) << format.error().message;
  EXPECT_EQ(format->bits, 3);
  EXPECT_EQ(format->group, 64);
  EXPECT_EQ(parse_gptq_type("gptq-8bit-channel")->group, -1);
  for (const char* wrong : {"gptq", "gptq-", "gptq-5bit-128g", "gptq-4bit", "gptq-4bit-", "gptq-4bit-0g",
                            "gptq-4bit--1g", "gptq-4bit-128", "gptq-4bit-128gx", "gptq-04bit-128g",
                            "gptq-4bit-99999999999999999999g", "gptq-260bit-128g"}) {
    EXPECT_TRUE(is_gptq_type(wrong));
    const auto parsed = parse_gptq_type(wrong);
    ASSERT_FALSE(parsed) << wrong;
    EXPECT_NE(parsed.error().message.find("gptq-4bit-128g"), std::string::npos);
  }
  EXPECT_FALSE(is_gptq_type("Q4_K_M"));
}

TEST(Gptq, GridsHoldWhatTheyCanHold) {
  std::mt19937 random(1);
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      const GptqFormat format = format_of(bits, 32, false, symmetric);
      for (int trial = 0; trial < 50; ++trial) {
        const int zero = symmetric ? 1 << (bits - 1) : 1 + static_cast<int>(random() % format.largest_code());
        const float scale = f16_to_f32(static_cast<uint16_t>(0x2000 + random() % 0x1800)) *
                            (symmetric && trial % 2 ? -1.0f : 1.0f);
        std::vector<float> weights(32), importance(32, 1);
        for (float& w : weights)
          w = scale * static_cast<float>(static_cast<int>(random() % (format.largest_code() + 1)) - zero);
        weights[3] = scale * static_cast<float>(-zero);  // the whole range
        weights[7] = scale * static_cast<float>(format.largest_code() - zero);
        const GptqGrid grid = choose_grid(format, weights, importance);
        for (const float w : weights)
          EXPECT_EQ(grid.value(grid.code(w, format.largest_code())), w) << bits << ' ' << symmetric;
      }
    }
  }
}

TEST(Gptq, GridsOfOddGroups) {
  const std::vector<float> ones(8, 1);
  for (const bool symmetric : {true, false}) {
    const GptqFormat format = format_of(4, 8, false, symmetric);
    for (const float w : {0.0f, 1e-30f, -1e-8f, 3e38f, -3e38f, 5.0f}) {
      const GptqGrid grid = choose_grid(format, std::vector<float>(8, w), ones);
      EXPECT_GE(grid.zero, 1);
      EXPECT_LE(grid.zero, 15);
      const float value = grid.value(grid.code(w, 15));
      EXPECT_TRUE(std::isfinite(value)) << w;
      if (std::abs(w) < 1e-6f) {
        EXPECT_NEAR(value, 0, 1e-6);
      }
      if (w == 5.0f) {
        EXPECT_NEAR(value, 5, 0.01);
      }
    }
    // Inputs that do not count at all.
    const GptqGrid grid = choose_grid(format, std::vector<float>(8, 1.0f), std::vector<float>(8, 0.0f));
    EXPECT_TRUE(std::isfinite(grid.value(grid.code(1, 15))));
  }
}

TEST(Gptq, IsWhatThePaperWrites) {
  auto dense = *Dense::create(2);
  const Problem problem(70, 160, 400, 2);
  for (const int bits : {2, 3, 4}) {
    for (const int64_t group : {int64_t{32}, int64_t{160}, int64_t{-1}}) {
      for (const bool act_order : {false, true}) {
        for (const bool symmetric : {true, false}) {
          const GptqFormat format = format_of(bits, group, act_order, symmetric);
          const auto factor = GptqFactor::create(*dense, problem.products(*dense), format, 0.01);
          ASSERT_TRUE(factor) << factor.error().message;
          const Solved ours = solve(*dense, problem, format, *factor);
          const Solved theirs = paper(problem, format, factor->order(), 0.01);
          // Weights halfway between two codes may fall to either side, and then what follows differs.
          int64_t rows_equal = 0;
          for (int64_t r = 0; r < problem.rows; ++r) {
            const auto* a = ours.matrix.codes.data() + r * problem.cols;
            const auto* b = theirs.matrix.codes.data() + r * problem.cols;
            rows_equal += std::equal(a, a + problem.cols, b) ? 1 : 0;
          }
          EXPECT_GE(rows_equal, problem.rows * 8 / 10)
              << bits << ' ' << group << ' ' << act_order << ' ' << symmetric;
        }
      }
    }
  }
}

TEST(Gptq, ReportsTheErrorThatIsThere) {
  auto dense = *Dense::create(2);
  const Problem problem(65, 96, 200, 3);
  const GptqFormat format = format_of(3, 32);
  const auto factor = GptqFactor::create(*dense, problem.products(*dense), format, 0.01);
  const Solved solved = solve(*dense, problem, format, *factor);
  const Matrix h = problem.hessian(0.01);
  const std::vector<float> nothing(problem.weights.size());
  const double expected =
      std::sqrt(output_error(h, problem.weights, solved.values) / output_error(h, problem.weights, nothing));
  EXPECT_NEAR(solved.matrix.output_error / expected, 1, 1e-3);
  double changes = 0, squares = 0;
  for (size_t i = 0; i < nothing.size(); ++i) {
    const double w = problem.weights[i], difference = w - solved.values[i];
    changes += difference * difference;
    squares += w * w;
  }
  EXPECT_NEAR(solved.matrix.weight_error / std::sqrt(changes / squares), 1, 1e-4);
}

TEST(Gptq, WhatItStoresIsWhatItReturns) {
  auto dense = *Dense::create(2);
  const Problem problem(33, 64, 100, 4);
  for (const bool act_order : {false, true}) {
    const GptqFormat format = format_of(4, 16, act_order, false);
    const auto factor = GptqFactor::create(*dense, problem.products(*dense), format, 0.01);
    const auto [m, values] = solve(*dense, problem, format, *factor);
    EXPECT_EQ(m.groups, 4);
    std::vector<int> members(4);
    for (int64_t k = 0; k < 64; ++k) {
      const auto g = static_cast<size_t>(m.g_idx[static_cast<size_t>(k)]);
      ++members[g];
      if (!act_order) {
        EXPECT_EQ(g, static_cast<size_t>(k / 16));
      }
      for (int64_t r = 0; r < 33; ++r) {
        const size_t at = g * 33 + static_cast<size_t>(r), to = static_cast<size_t>(r * 64 + k);
        ASSERT_GE(m.zeros[at], 1);
        ASSERT_EQ(values[to], f16_to_f32(m.scales[at]) * static_cast<float>(m.codes[to] - m.zeros[at]));
      }
    }
    EXPECT_EQ(members, std::vector<int>(4, 16));
  }
}

TEST(Gptq, WithoutCalibrationItRoundsToNearest) {
  auto dense = *Dense::create(2);
  const Problem problem(40, 64, 1, 5);
  const GptqFormat format = format_of(3, 32);
  const auto [m, values] = solve(*dense, problem, format, GptqFactor::identity(64));
  const std::vector<float> ones(32, 1);
  for (size_t r = 0; r < 40; ++r) {
    for (size_t g = 0; g < 2; ++g) {
      const auto weights = std::span(problem.weights).subspan(r * 64 + g * 32, 32);
      const GptqGrid grid = choose_grid(format, weights, ones);
      for (size_t i = 0; i < 32; ++i) ASSERT_EQ(m.codes[r * 64 + g * 32 + i], grid.code(weights[i], 7));
    }
  }
  // Inputs that do not depend on each other and count alike: the same.
  auto h = *SquareMatrix::create(64);
  for (int64_t i = 0; i < 64; ++i) h.at(i, i) = 4;
  const auto factor = GptqFactor::create(*dense, std::move(h), format, 0);
  EXPECT_EQ(solve(*dense, problem, format, *factor).matrix.codes, m.codes);
}

TEST(Gptq, KeepsWhatTheGridsCanHold) {
  auto dense = *Dense::create(2);
  Problem problem(20, 64, 150, 6);
  std::mt19937 random(7);
  for (size_t i = 0; i < problem.weights.size(); ++i) {
    const int code = i % 32 == 0 ? 0 : i % 32 == 1 ? 15 : static_cast<int>(random() % 16);
    problem.weights[i] = 0.25f * static_cast<float>(code - 8);
  }
  const GptqFormat format = format_of(4, 32);
  const auto factor = GptqFactor::create(*dense, problem.products(*dense), format, 0.01);
  const auto [m, values] = solve(*dense, problem, format, *factor);
  for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], problem.weights[i], 1e-5);
  EXPECT_LT(m.output_error, 1e-5);
}

/// The best of all 4^6 choices of codes, on the grid that GPTQ took.
double best_possible(const Matrix& h, std::span<const float> weights, const GptqMatrix& m, size_t row) {
  double best = 1e30;
  const float scale = f16_to_f32(m.scales[row]);
  for (int choice = 0; choice < 4096; ++choice) {
    float values[6];
    for (int i = 0; i < 6; ++i)
      values[i] = scale * static_cast<float>(((choice >> (2 * i)) & 3) - m.zeros[row]);
    best = std::min(best, output_error(h, weights, values));
  }
  return best;
}

TEST(Gptq, ComesNearTheBestAndBeatsRounding) {
  auto dense = *Dense::create(1);
  double optimum = 0, gptq = 0, rounded = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Problem problem(4, 6, 12, 100 + seed);
    const GptqFormat format = format_of(2, -1);
    const auto factor = GptqFactor::create(*dense, problem.products(*dense), format, 0.01);
    const Matrix h = problem.hessian(0.01);
    const Solved ours = solve(*dense, problem, format, *factor);
    const Solved plain = solve(*dense, problem, format, GptqFactor::identity(6));
    gptq += output_error(h, problem.weights, ours.values);
    rounded += output_error(h, problem.weights, plain.values);
    for (size_t r = 0; r < 4; ++r)
      optimum += best_possible(h, std::span(problem.weights).subspan(6 * r, 6), ours.matrix, r);
  }
  EXPECT_LE(optimum, gptq * 1.0001);
  EXPECT_LT(gptq, 2 * optimum);
  EXPECT_LT(gptq, 0.6 * rounded);
}

TEST(Gptq, FewOrDeadInputsAreNoProblem) {
  auto dense = *Dense::create(2);
  Problem problem(16, 64, 9, 8);  // fewer texts than inputs
  for (size_t s = 0; s < 9; ++s)
    for (size_t c = 10; c < 20; ++c) problem.inputs[s * 64 + c] = 0;
  for (const bool act_order : {false, true}) {
    const GptqFormat format = format_of(4, 32, act_order);
    const auto factor = GptqFactor::create(*dense, problem.products(*dense), format, 0.01);
    ASSERT_TRUE(factor) << factor.error().message;
    const auto [m, values] = solve(*dense, problem, format, *factor);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], problem.weights[i], 3) << i;
    EXPECT_LT(m.output_error, 0.1);
  }
  std::ranges::fill(problem.inputs, 0.0f);
  const auto none = GptqFactor::create(*dense, problem.products(*dense), format_of(4, 32), 0.01);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->row(0), nullptr) << "nothing is known: round to nearest";
  problem.inputs[5] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(GptqFactor::create(*dense, problem.products(*dense), format_of(4, 32), 0.01));
}

}  // namespace
}  // namespace quern
