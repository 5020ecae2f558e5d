#include "nn/mlp.h"

#include <array>

namespace quern::nn {

void mlp(Backend& backend, const MlpWeights& weights, Tensor residual, Tensor in, Tensor scratch) {
  const Tensor both = scratch.slice_rows(0, in.rows);
  const int64_t inner = both.cols / 2;
  const Tensor gate = both.slice_cols(0, inner);
  const Tensor up = both.slice_cols(inner, inner);
  if (weights.gate_up) {
    weights.gate_up(backend, both, in);
  } else {
    backend.matmul_multi(std::array{weights.gate.to(gate), weights.up.to(up)}, in);
  }
  backend.silu_mul(gate, gate, up);
  weights.down(backend, residual, gate, /*accumulate=*/true);
}

}  // namespace quern::nn
