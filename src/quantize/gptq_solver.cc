#include "quantize/gptq_solver.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/check.h"
#include "core/half.h"

namespace quern {
namespace {

/// Rows that one thread solves together, and inputs whose errors reach the later ones in one product.
constexpr int64_t kRows = 64, kBlock = 128;

/// One thread's rows.
class RowSolver {
 public:
  RowSolver(Dense& dense, int thread, const GptqFactor& factor, const GptqFormat& format)
      : kernels_(dense.kernels()),
        scratch_(dense.scratch(thread)),
        factor_(factor),
        format_(format),
        cols_(factor.cols()),
        group_(format.group_of(cols_)),
        weights_(static_cast<size_t>(kRows * cols_)),
        errors_(static_cast<size_t>(kRows * cols_)),
        start_(static_cast<size_t>(kRows * group_)),
        wanted_(static_cast<size_t>(kRows * group_)),
        grids_(kRows) {}

  /// Rows [first, first + count).
  void solve(float* weights, int64_t first, int64_t count, GptqMatrix& out);

  double changes = 0, squares = 0;                // of the weights
  double output_changes = 0, output_squares = 0;  // of the outputs

 private:
  void gather(const float* weights);
  void begin_group(int64_t begin);
  template <bool rounds>
  void sweep(int64_t begin, GptqMatrix& out);
  template <bool rounds>
  void round_column(int64_t place, int64_t begin, GptqMatrix& out);
  void choose_grids(int64_t begin, GptqMatrix& out);
  void measure();

  float* at(std::vector<float>& v, int64_t row, int64_t col, int64_t stride) const {
    return v.data() + row * stride + col;
  }

  const DenseKernels& kernels_;
  DenseScratch& scratch_;
  const GptqFactor& factor_;
  const GptqFormat& format_;
  const int64_t cols_, group_;
  int64_t first_ = 0, count_ = 0;
  // By place in the order: [kRows][cols].
  std::vector<float> weights_, errors_;
  // The group in work: w' as the errors before the group make it, and as all errors so far do.
  std::vector<float> start_, wanted_;
  std::vector<GptqGrid> grids_;
};

void RowSolver::gather(const float* weights) {
  for (int64_t r = 0; r < count_; ++r) {
    const float* from = weights + (first_ + r) * cols_;
    float* to = at(weights_, r, 0, cols_);
    for (int64_t p = 0; p < cols_; ++p) to[p] = from[factor_.order()[static_cast<size_t>(p)]];
  }
}

void RowSolver::begin_group(int64_t begin) {
  for (int64_t r = 0; r < count_; ++r)
    std::copy_n(at(weights_, r, begin, cols_), group_, at(start_, r, 0, group_));
  if (begin == 0 || factor_.row(0) == nullptr) return;
  multiply_add(kernels_, scratch_,
               {.rows = count_,
                .cols = group_,
                .depth = begin,
                .a = {errors_.data(), cols_, 1},
                .b = {factor_.row(0) + begin, cols_, 1},
                .out = start_.data(),
                .stride = group_});
}

/// Goes through the group from `begin` on, input by input. Without rounding: what the weights would be, were
/// the errors so far the only ones.
template <bool rounds>
void RowSolver::sweep(int64_t begin, GptqMatrix& out) {
  std::copy_n(start_.data(), count_ * group_, wanted_.data());
  for (int64_t block = begin; block < begin + group_; block += kBlock) {
    const int64_t end = std::min(block + kBlock, begin + group_);
    if (block > begin && factor_.row(0) != nullptr)
      multiply_add(kernels_, scratch_,
                   {.rows = count_,
                    .cols = end - block,
                    .depth = block - begin,
                    .a = {errors_.data() + begin, cols_, 1},
                    .b = {factor_.row(begin) + block, cols_, 1},
                    .out = wanted_.data() + block - begin,
                    .stride = group_});
    for (int64_t place = block; place < end; ++place) {
      round_column<rounds>(place, begin, out);
      if (factor_.row(0) == nullptr) continue;
      for (int64_t r = 0; r < count_; ++r)
        kernels_.add_scaled(at(wanted_, r, place + 1 - begin, group_), factor_.row(place) + place + 1,
                            *at(errors_, r, place, cols_), end - place - 1);
    }
  }
}

template <bool rounds>
void RowSolver::round_column(int64_t place, int64_t begin, GptqMatrix& out) {
  const int64_t col = factor_.order()[static_cast<size_t>(place)];
  const double importance = factor_.importance()[static_cast<size_t>(place)];
  for (int64_t r = 0; r < count_; ++r) {
    const float wanted = *at(wanted_, r, place - begin, group_);
    float value = wanted;
    if constexpr (rounds) {
      const GptqGrid& grid = grids_[static_cast<size_t>(r)];
      const int code = grid.code(wanted, format_.largest_code());
      value = grid.value(code);
      out.codes[static_cast<size_t>((first_ + r) * cols_ + col)] = static_cast<uint8_t>(code);
      output_changes += importance * (wanted - value) * (wanted - value);
    }
    *at(errors_, r, place, cols_) = *at(weights_, r, place, cols_) - value;
  }
}

void RowSolver::choose_grids(int64_t begin, GptqMatrix& out) {
  const int64_t col = factor_.order()[static_cast<size_t>(begin)];
  const int64_t group = format_.act_order ? begin / group_ : col / group_;
  const auto importance =
      std::span(factor_.importance()).subspan(static_cast<size_t>(begin), static_cast<size_t>(group_));
  for (int64_t r = 0; r < count_; ++r) {
    GptqGrid& grid = grids_[static_cast<size_t>(r)];
    grid = choose_grid(format_, {at(wanted_, r, 0, group_), static_cast<size_t>(group_)}, importance);
    const auto index = static_cast<size_t>(group * out.rows + first_ + r);
    out.scales[index] = grid.scale_f16;
    out.zeros[index] = static_cast<uint8_t>(grid.zero);
  }
}

/// Σ ‖Rᵀw‖² is the outputs' sum of squares: component j is R_jj (w_j + Σ_{i<j} w_i R_ij / R_jj).
void RowSolver::measure() {
  const bool alone = factor_.row(0) == nullptr;
  for (int64_t begin = 0; begin < cols_; begin += kBlock) {
    const int64_t n = std::min(kBlock, cols_ - begin);
    std::vector<float> sums(static_cast<size_t>(kRows * n));
    for (int64_t r = 0; r < count_; ++r) std::copy_n(at(weights_, r, begin, cols_), n, at(sums, r, 0, n));
    if (!alone && begin > 0)
      multiply_add(kernels_, scratch_,
                   {.rows = count_,
                    .cols = n,
                    .depth = begin,
                    .a = {weights_.data(), cols_, 1},
                    .b = {factor_.row(0) + begin, cols_, 1},
                    .out = sums.data(),
                    .stride = n});
    for (int64_t i = 0; i < n && !alone; ++i)
      for (int64_t r = 0; r < count_; ++r)
        kernels_.add_scaled(at(sums, r, i + 1, n), factor_.row(begin + i) + begin + i + 1,
                            *at(weights_, r, begin + i, cols_), n - i - 1);
    for (int64_t r = 0; r < count_; ++r)
      for (int64_t i = 0; i < n; ++i) {
        const double sum = *at(sums, r, i, n);
        output_squares += factor_.importance()[static_cast<size_t>(begin + i)] * sum * sum;
      }
  }
}

void RowSolver::solve(float* weights, int64_t first, int64_t count, GptqMatrix& out) {
  first_ = first;
  count_ = count;
  gather(weights);
  measure();
  for (int64_t begin = 0; begin < cols_; begin += group_) {
    begin_group(begin);
    if (begin > 0)
      sweep<false>(begin, out);
    else
      std::copy_n(start_.data(), count_ * group_, wanted_.data());  // no errors yet
    choose_grids(begin, out);
    sweep<true>(begin, out);
  }
  for (int64_t r = 0; r < count; ++r) {
    float* to = weights + (first + r) * cols_;
    for (int64_t p = 0; p < cols_; ++p) {
      const double weight = *at(weights_, r, p, cols_), error = *at(errors_, r, p, cols_);
      squares += weight * weight;
      changes += error * error;
      const int64_t col = factor_.order()[static_cast<size_t>(p)];
      const auto index = static_cast<size_t>(out.g_idx[static_cast<size_t>(col)] * out.rows + first + r);
      const GptqGrid grid{.scale = f16_to_f32(out.scales[index]), .zero = out.zeros[index]};
      to[col] = grid.value(out.codes[static_cast<size_t>((first + r) * cols_ + col)]);
    }
  }
}

double ratio(double changes, double squares) { return changes > 0 ? std::sqrt(changes / squares) : 0; }

}  // namespace

GptqMatrix gptq_solve(Dense& dense, const GptqFactor& factor, const GptqFormat& format, float* weights,
                      int64_t rows) {
  const int64_t cols = factor.cols(), group = format.group_of(cols);
  QUERN_CHECK(rows > 0 && cols % group == 0);
  GptqMatrix out{.rows = rows, .cols = cols, .groups = cols / group};
  out.codes.resize(static_cast<size_t>(rows * cols));
  out.scales.resize(static_cast<size_t>(out.groups * rows));
  out.zeros.resize(out.scales.size());
  out.g_idx.resize(static_cast<size_t>(cols));
  for (int64_t p = 0; p < cols; ++p) {
    const int32_t col = factor.order()[static_cast<size_t>(p)];
    out.g_idx[static_cast<size_t>(col)] = static_cast<int32_t>((format.act_order ? p : col) / group);
  }
  std::vector<std::unique_ptr<RowSolver>> solvers(static_cast<size_t>(dense.pool().size()));
  dense.pool().for_parts((rows + kRows - 1) / kRows, [&](int thread, int64_t part) {
    auto& solver = solvers[static_cast<size_t>(thread)];
    if (solver == nullptr) solver = std::make_unique<RowSolver>(dense, thread, factor, format);
    solver->solve(weights, part * kRows, std::min(kRows, rows - part * kRows), out);
  });
  double changes = 0, squares = 0, output_changes = 0, output_squares = 0;
  for (const auto& solver : solvers) {
    if (solver == nullptr) continue;
    changes += solver->changes;
    squares += solver->squares;
    output_changes += solver->output_changes;
    output_squares += solver->output_squares;
  }
  out.weight_error = ratio(changes, squares);
  out.output_error = ratio(output_changes, output_squares);
  return out;
}

}  // namespace quern
