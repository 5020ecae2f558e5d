// GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022, arXiv 2210.17323): rounds a matrix input by input, and
// makes up for each rounding in the inputs that are still to come.
//
// With H = Σ x xᵀ over a layer's inputs x, rounding W to Q changes its outputs by tr(E H Eᵀ), E = W − Q. With
// H = R Rᵀ, R upper triangular, one output's part is Σ_j R_jj² (w'_j − q_j)², where
//
//   w'_j = w_j + Σ_{i<j} e_i R_ij / R_jj
//
// depends only on the inputs before j. So q_j is w'_j rounded: no inverse of H is needed. (It is the same
// result as the paper's, which takes R⁻¹ from a factor of H⁻¹ and updates all later columns at every step.)
#pragma once

#include <cstdint>
#include <vector>

#include "quantize/dense.h"
#include "quantize/gptq_grid.h"

namespace quern {

/// H and what follows from it for every matrix that sees these inputs.
class GptqFactor {
 public:
  /// `hessian`'s upper triangle is Σ x xᵀ. `damping` times the mean of its diagonal is added to the diagonal,
  /// ten times that when it is not positive definite. Inputs that were always 0 thereby are rounded on their
  /// own. Fails when the sums are not finite.
  static Result<GptqFactor> create(Dense& dense, SquareMatrix hessian, const GptqFormat& format,
                                   double damping);
  /// No calibration: every input counts alike and is rounded on its own (round to nearest).
  static GptqFactor identity(int64_t cols);

  int64_t cols() const { return static_cast<int64_t>(order_.size()); }
  /// The inputs in the order in which they are rounded: by falling H_jj. Unless the format says act_order,
  /// groups stay together, those of the largest sums first: then a file needs no g_idx, but important inputs
  /// still come early, when there are others left to make up for them.
  const std::vector<int32_t>& order() const { return order_; }
  /// R_jj² by place in the order.
  const std::vector<float>& importance() const { return importance_; }
  /// Row i of R_ij / R_jj, by places in the order, for j > i. Null for the identity.
  const float* row(int64_t i) const { return unit_.size() > 0 ? unit_.row(i) : nullptr; }

 private:
  std::vector<int32_t> order_;
  std::vector<float> importance_;
  SquareMatrix unit_;
};

/// A matrix of `rows` outputs and `cols` inputs, as it will be stored.
struct GptqMatrix {
  int64_t rows = 0, cols = 0, groups = 0;
  std::vector<uint8_t> codes;    // [rows][cols]
  std::vector<uint16_t> scales;  // f16 [groups][rows]
  std::vector<uint8_t> zeros;    // [groups][rows]
  std::vector<int32_t> g_idx;    // [cols]
  double weight_error = 0;       // root of the mean square error over the root of the weights' mean square
  double output_error = 0;       // the same of the outputs for the inputs of calibration, damping included
};

/// `weights` (rows × cols, finite) become what the stored ones stand for. cols is a multiple of the group and
/// the factor's; the factor was made for the same format.
GptqMatrix gptq_solve(Dense& dense, const GptqFactor& factor, const GptqFormat& format, float* weights,
                      int64_t rows);

}  // namespace quern
