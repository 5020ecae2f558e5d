// The gated feed-forward block: down(silu(gate(x)) · up(x)).
#pragma once

#include "nn/linear.h"

namespace quern::nn {

struct MlpWeights {
  Linear gate_up;   // rows: gate, then up; or, when this is empty:
  Linear gate, up;  // each on its own
  Linear down;
};

/// residual += mlp(in). `scratch` has 2 · (inner size) columns and at least in.rows rows.
void mlp(Backend& backend, const MlpWeights& weights, Tensor residual, Tensor in, Tensor scratch);

}  // namespace quern::nn
