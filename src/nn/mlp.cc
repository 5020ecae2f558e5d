#include "nn/mlp.h"

namespace quern::nn {

void mlp(Backend& backend, const MlpWeights& weights, Tensor residual, Tensor in, Tensor scratch) {
  const Tensor both = scratch.slice_rows(0, in.rows);
  const int64_t inner = both.cols / 2;
  const Tensor gate = both.slice_cols(0, inner);
  const Tensor up = both.slice_cols(inner, inner);
  if (weights.gate_up) {
    weights.gate_up(backend, both, in);
  } else {
    weights.gate(backend, gate, in);
    weights.up(backend, up, in);
  }
  backend.silu_mul(gate, gate, up);
  weights.down(backend, residual, gate, /*accumulate=*/true);
}

}  // namespace quern::nn
