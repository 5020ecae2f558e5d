#include <algorithm>
#include <cmath>
#include <numeric>

#include "quantize/gptq_solver.h"

namespace quern {
namespace {

constexpr int kAttempts = 3;

std::vector<int32_t> in_order(int64_t n) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

/// See GptqFactor::order. Stable, so that equal inputs keep their places.
std::vector<int32_t> choose_order(const std::vector<float>& diagonal, const GptqFormat& format) {
  const auto cols = static_cast<int64_t>(diagonal.size());
  auto order = in_order(cols);
  const auto value = [&](int32_t c) { return diagonal[static_cast<size_t>(c)]; };
  const auto falls = [&](int32_t a, int32_t b) { return value(a) > value(b); };
  if (format.act_order || format.group < 0) {
    std::ranges::stable_sort(order, falls);
    return order;
  }
  const int64_t size = format.group;
  std::vector<double> sums(static_cast<size_t>(cols / size));
  for (int64_t c = 0; c < cols; ++c) sums[static_cast<size_t>(c / size)] += diagonal[static_cast<size_t>(c)];
  const auto sum = [&](int32_t c) { return sums[static_cast<size_t>(c / size)]; };
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    if (a / size == b / size) return falls(a, b);
    return sum(a) > sum(b) || (sum(a) == sum(b) && a < b);
  });
  return order;
}

/// The whole of a matrix whose upper triangle is given, its rows and columns in another order.
void mirror_and_permute(Dense& dense, SquareMatrix& m, const std::vector<int32_t>& order) {
  const int64_t n = m.size();
  constexpr int64_t kBlock = 64;  // both sides of a block in a core's caches
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  dense.pool().for_parts(blocks, [&](int, int64_t block) {
    const int64_t first = block * kBlock, last = std::min(n, first + kBlock);
    for (int64_t c = first; c < n; c += kBlock)
      for (int64_t i = first; i < last; ++i)
        for (int64_t j = std::max(c, i + 1); j < std::min(n, c + kBlock); ++j) m.at(j, i) = m.at(i, j);
  });
  dense.pool().parallel_for(n, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> moved(static_cast<size_t>(n));
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < n; ++c) moved[static_cast<size_t>(c)] = m.at(r, order[static_cast<size_t>(c)]);
      std::ranges::copy(moved, m.row(r));
    }
  });
  // Rows move along the cycles of the permutation: row r is to hold what row order[r] holds.
  std::vector<bool> done(static_cast<size_t>(n));
  std::vector<float> first(static_cast<size_t>(n));
  for (int64_t start = 0; start < n; ++start) {
    if (done[static_cast<size_t>(start)]) continue;
    std::copy_n(m.row(start), n, first.data());
    for (int64_t r = start;;) {
      done[static_cast<size_t>(r)] = true;
      const int64_t from = order[static_cast<size_t>(r)];
      std::copy_n(from == start ? first.data() : m.row(from), n, m.row(r));
      if (from == start) break;
      r = from;
    }
  }
}

}  // namespace

GptqFactor GptqFactor::identity(int64_t cols) {
  GptqFactor factor;
  factor.order_ = in_order(cols);
  factor.importance_.assign(static_cast<size_t>(cols), 1);
  return factor;
}

Result<GptqFactor> GptqFactor::create(Dense& dense, SquareMatrix hessian, const GptqFormat& format,
                                      double damping) {
  const int64_t n = hessian.size();
  std::vector<float> diagonal(static_cast<size_t>(n));
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) {
    diagonal[static_cast<size_t>(i)] = hessian.at(i, i);
    mean += static_cast<double>(hessian.at(i, i)) / static_cast<double>(n);
  }
  if (!std::isfinite(mean))
    return fail(ErrorCode::corrupt, "the calibration text gives inputs that are not finite");
  if (mean <= 0) return identity(n);
  GptqFactor factor;
  factor.order_ = choose_order(diagonal, format);
  mirror_and_permute(dense, hessian, factor.order_);
  bool positive = false;
  for (int attempt = 0; attempt < kAttempts && !positive; ++attempt, damping *= 10) {
    // What is below the diagonal is H itself as long as the factor above it is not found.
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; attempt > 0 && j < n; ++j) hessian.at(i, j) = hessian.at(j, i);
      const float own = diagonal[static_cast<size_t>(factor.order_[static_cast<size_t>(i)])];
      hessian.at(i, i) = own + static_cast<float>(damping * mean);
    }
    positive = dense.factor_upper(hessian);
  }
  if (!positive)
    return fail(ErrorCode::corrupt,
                "the calibration text gives inputs whose sums of products have no factor");
  std::vector<float> inverse(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    factor.importance_.push_back(hessian.at(i, i) * hessian.at(i, i));
    inverse[static_cast<size_t>(i)] = 1 / hessian.at(i, i);
  }
  dense.pool().parallel_for(n, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = r + 1; c < n; ++c) hessian.at(r, c) *= inverse[static_cast<size_t>(c)];
  });
  factor.unit_ = std::move(hessian);
  return factor;
}

}  // namespace quern
