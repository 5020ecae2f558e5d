#include "nn/attention.h"

#include <array>

namespace quern::nn {

void project_qkv(Backend& backend, const AttentionWeights& weights, const AttentionLayout& layout, Tensor qkv,
                 Tensor in, std::span<const int32_t> positions, KvLayer cache, const KvShape& kv,
                 std::span<const SequenceSlice> sequences) {
  const int64_t q_cols = layout.q_cols(), kv_cols = layout.kv_cols(kv);
  const Tensor q = qkv.slice_cols(0, q_cols);
  const Tensor k = qkv.slice_cols(q_cols, kv_cols);
  const Tensor v = qkv.slice_cols(q_cols + kv_cols, kv_cols);
  if (weights.qkv) {
    weights.qkv(backend, qkv, in);
  } else {
    backend.matmul_multi(std::array{weights.q.to(q), weights.k.to(k), weights.v.to(v)}, in);
  }
  if (weights.q_norm) weights.q_norm(backend, q, q);
  if (weights.k_norm) weights.k_norm(backend, k, k);
  // Queries and keys lie side by side and turn alike.
  backend.rope(qkv.slice_cols(0, q_cols + kv_cols), positions, *layout.frequency, layout.rope);
  backend.kv_write(cache, kv, k, v, sequences);
}

}  // namespace quern::nn
