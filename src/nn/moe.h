// A mixture of gated feed-forward experts, as Mixtral has it: a router picks `used` experts per row, weighted
// by the softmax of the picked experts' logits.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "nn/mlp.h"

namespace quern::nn {

/// Experts as one stack per matrix, or (files of 2023) each as a tensor of its own.
struct MoeWeights {
  std::unique_ptr<Weight> router;          // [experts, dim]
  std::unique_ptr<Weight> gate, up, down;  // stacks; or, when these are null:
  std::vector<MlpWeights> single;
};

/// Which rows go to which expert. Entries of one expert are adjacent, experts ascending, rows ascending
/// within.
struct Routing {
  std::vector<int32_t> expert, row;  // one entry per (row, picked expert)
  std::vector<float> weight;
};

/// Picks the `used` largest of each row's logits (rows × experts; the lower index wins a tie).
Routing route(std::span<const float> logits, int64_t experts, int64_t used);

/// Activations for at most `rows` rows; allocated once, by the model.
struct MoeScratch {
  Tensor logits;    // rows × experts
  Tensor gathered;  // rows × dim
  Tensor gate_up;   // rows·used × 2·inner
  Tensor out;       // rows·used × dim
};

/// residual += moe(in). Each row's experts are added in ascending order, whatever else is in the batch.
void moe(Backend& backend, const MoeWeights& weights, int64_t used, Tensor residual, Tensor in,
         MoeScratch scratch);

}  // namespace quern::nn
