// Self-attention over a paged cache, with grouped queries, optional biases, query and key norms, and separate
// or fused projections.
#pragma once

#include <span>

#include "nn/linear.h"
#include "nn/norm.h"

namespace quern::nn {

struct AttentionWeights {
  Linear qkv;              // rows: queries, then keys, then values; or, when this is empty:
  Linear q, k, v;          // each on its own
  RmsNorm q_norm, k_norm;  // over each head; may be empty
  Linear out;
};

struct AttentionLayout {
  AttentionShape shape;
  RopeShape rope;
  const Vector* frequency = nullptr;  // for Backend::rope

  int64_t q_cols() const { return shape.heads * rope.head_dim; }
  int64_t kv_cols(const KvShape& kv) const { return kv.kv_heads * kv.head_dim; }
};

/// Writes queries, keys and values of `in` side by side into `qkv` (q_cols + 2 · kv_cols columns), turns
/// queries and keys to their positions, and stores keys and values in the cache.
void project_qkv(Backend& backend, const AttentionWeights& weights, const AttentionLayout& layout, Tensor qkv,
                 Tensor in, std::span<const int32_t> positions, KvLayer cache, const KvShape& kv,
                 std::span<const SequenceSlice> sequences);

}  // namespace quern::nn
