// Attention over a paged cache (attention.h), block by block with an online softmax. Every query keeps its
// own maximum, sum and accumulator and takes the blocks in order, so that what else is in the batch, or how a
// prompt was cut into chunks, does not change its result.

struct AttentionState {
  float* q;      // [kMaxQueries][dim], scaled
  float* acc;    // [kMaxQueries][dim]
  float* score;  // [8][tokens]
  float* top;    // [kMaxQueries]
  float* sum;    // [kMaxQueries]
  float shrink[8];
};

/// Scores of W queries against lanes [t, t + kLanes) of a block.
template <int W, bool kQ8>
QUERN_INLINE void score_lanes(const AttentionTask& task, const std::byte* head, const float* q, int64_t t,
                              float* score) {
  const KvLayout& layout = *task.layout;
  F s[W];
  QUERN_UNROLL for (int w = 0; w < W; ++w) s[w] = V::zero();
  if constexpr (kQ8) {
    const int8_t* k = reinterpret_cast<const int8_t*>(head) + t;
    const float* scale = reinterpret_cast<const float*>(head + layout.k_scale_offset()) + t;
    for (int64_t d0 = 0; d0 < task.head_dim; d0 += 32, scale += layout.tokens) {
      F part[W];
      QUERN_UNROLL for (int w = 0; w < W; ++w) part[w] = V::zero();
      const int64_t end = std::min(task.head_dim, d0 + 32);
      for (int64_t d = d0; d < end; ++d) {
        const F key = V::load_i8(k + d * layout.tokens);
        QUERN_UNROLL for (int w = 0; w < W; ++w) part[w] =
            V::fma(V::set1(q[w * layout.dim + d]), key, part[w]);
      }
      const F factor = V::load(scale);
      QUERN_UNROLL for (int w = 0; w < W; ++w) s[w] = V::fma(factor, part[w], s[w]);
    }
  } else {
    const uint16_t* k = reinterpret_cast<const uint16_t*>(head) + t;
    for (int64_t d = 0; d < task.head_dim; ++d) {
      const F key = V::load_f16(k + d * layout.tokens);
      QUERN_UNROLL for (int w = 0; w < W; ++w) s[w] = V::fma(V::set1(q[w * layout.dim + d]), key, s[w]);
    }
  }
  QUERN_UNROLL for (int w = 0; w < W; ++w) V::store(score + w * layout.tokens + t, s[w]);
}

/// Adds p · V for W queries: dimensions [d, d + kLanes), tokens [from, to).
template <int W, bool kQ8>
QUERN_INLINE void value_lanes(const AttentionTask& task, const std::byte* head, AttentionState& state,
                              int first, int64_t d, int64_t from, int64_t to) {
  const KvLayout& layout = *task.layout;
  float* acc = state.acc + first * layout.dim + d;
  const float* p = state.score;
  F a[W];
  QUERN_UNROLL for (int w = 0; w < W; ++w) a[w] =
      V::mul(V::load(acc + w * layout.dim), V::set1(state.shrink[w]));
  if constexpr (kQ8) {
    const int8_t* v = reinterpret_cast<const int8_t*>(head + layout.v_offset()) + d;
    const float* scale = reinterpret_cast<const float*>(head + layout.v_scale_offset()) + d / 32;
    for (int64_t t = from; t < to; ++t) {
      const F value = V::mul(V::load_i8(v + t * layout.dim), V::set1(scale[t * layout.groups]));
      QUERN_UNROLL for (int w = 0; w < W; ++w) a[w] = V::fma(V::set1(p[w * layout.tokens + t]), value, a[w]);
    }
  } else {
    const uint16_t* v = reinterpret_cast<const uint16_t*>(head + layout.v_offset()) + d;
    for (int64_t t = from; t < to; ++t) {
      const F value = V::load_f16(v + t * layout.dim);
      QUERN_UNROLL for (int w = 0; w < W; ++w) a[w] = V::fma(V::set1(p[w * layout.tokens + t]), value, a[w]);
    }
  }
  QUERN_UNROLL for (int w = 0; w < W; ++w) V::store(acc + w * layout.dim, a[w]);
}

/// Turns one query's scores into weights: sees tokens [from, to) of the block, of which lanes [0, lanes) are
/// in use. Returns the factor by which what was gathered so far shrinks.
float softmax_step(float* score, int64_t lanes, int64_t from, int64_t to, float& top, float& sum) {
  if (from >= to) {
    std::memset(score, 0, sizeof(float) * static_cast<size_t>(lanes));
    return 1.0f;
  }
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (int64_t t = 0; t < from; ++t) score[t] = kNever;
  for (int64_t t = to; t < lanes; ++t) score[t] = kNever;
  F best[kParts];
  for (F& b : best) b = V::set1(top);
  for (int64_t t = 0; t < lanes; t += 16)
    QUERN_UNROLL for (int p = 0; p < kParts; ++p) best[p] = V::max(best[p], V::load(score + t + p * kLanes));
  const float next = V::reduce_max(best);
  F total[kParts];
  for (F& s : total) s = V::zero();
  for (int64_t t = 0; t < lanes; t += 16) {
    QUERN_UNROLL for (int p = 0; p < kParts; ++p) {
      float* lane = score + t + p * kLanes;
      const F weight = vexp(V::sub(V::load(lane), V::set1(next)));
      V::store(lane, weight);
      total[p] = V::add(total[p], weight);
    }
  }
  float old[16], now[16];
  for (int i = 0; i < 16; ++i) old[i] = top - next;
  for (int p = 0; p < kParts; ++p) V::store(now + p * kLanes, vexp(V::load(old + p * kLanes)));
  const float shrink = now[0];
  sum = std::fma(sum, shrink, V::reduce_add(total));
  top = next;
  return shrink;
}

/// Takes queries [first, first + W) through the block that begins at position `base`.
template <int W, bool kQ8>
void attend_block(const AttentionTask& task, const std::byte* head, int64_t base, AttentionState& state,
                  int first) {
  const KvLayout& layout = *task.layout;
  const int64_t first_pos = task.start + first / task.heads;
  const int64_t last_pos = task.start + (first + W - 1) / task.heads;
  const int64_t to = std::min(task.block_size, last_pos + 1 - base);
  const int64_t from = task.window > 0 ? std::max<int64_t>(0, first_pos + 1 - task.window - base) : 0;
  if (from >= to) return;
  const int64_t lanes = (to + 15) / 16 * 16;
  for (int64_t t = 0; t < lanes; t += kLanes)
    score_lanes<W, kQ8>(task, head, state.q + first * layout.dim, t, state.score);
  for (int w = 0; w < W; ++w) {
    const int64_t pos = task.start + (first + w) / task.heads;
    const int64_t sees_from = task.window > 0 ? std::max<int64_t>(0, pos + 1 - task.window - base) : 0;
    const int64_t sees_to = std::min(task.block_size, pos + 1 - base);
    state.shrink[w] = softmax_step(state.score + w * layout.tokens, lanes, sees_from, sees_to,
                                   state.top[first + w], state.sum[first + w]);
  }
  for (int64_t d = 0; d < layout.dim; d += kLanes) value_lanes<W, kQ8>(task, head, state, first, d, from, to);
}

template <bool kQ8>
void attend_all(const AttentionTask& task, const std::byte* head, int64_t base, AttentionState& state) {
  const int count = task.rows * task.heads;
  int i = 0;
  for (; i + 8 <= count; i += 8) attend_block<8, kQ8>(task, head, base, state, i);
  for (; i + 4 <= count; i += 4) attend_block<4, kQ8>(task, head, base, state, i);
  for (; i < count; ++i) attend_block<1, kQ8>(task, head, base, state, i);
}

void attention(const AttentionTask& task) {
  const KvLayout& layout = *task.layout;
  const int count = task.rows * task.heads;
  AttentionState state;
  state.q = task.scratch;
  state.acc = state.q + kMaxQueries * layout.dim;
  state.score = state.acc + kMaxQueries * layout.dim;
  state.top = state.score + 8 * layout.tokens;
  state.sum = state.top + kMaxQueries;
  for (int i = 0; i < count; ++i) {
    const float* q = task.q + i / task.heads * task.q_stride + i % task.heads * task.head_dim;
    for (int64_t d = 0; d < task.head_dim; ++d) state.q[i * layout.dim + d] = q[d] * task.scale;
    std::memset(state.acc + i * layout.dim, 0, sizeof(float) * static_cast<size_t>(layout.dim));
    state.top[i] = -std::numeric_limits<float>::infinity();
    state.sum[i] = 0;
  }
  const int64_t last = task.start + task.rows - 1;
  const int64_t from = task.window > 0 ? std::max<int64_t>(0, task.start + 1 - task.window) : 0;
  for (int64_t b = from / task.block_size; b <= last / task.block_size; ++b) {
    const std::byte* head = task.head + task.blocks[b] * task.block_bytes;
    if (b < last / task.block_size) {
      // The next block is somewhere else in memory: nothing but this says so in time.
      const std::byte* next = task.head + task.blocks[b + 1] * task.block_bytes;
      for (int64_t i = 0; i < layout.head_bytes(); i += 64) __builtin_prefetch(next + i, 0, 2);
    }
    if (layout.q8)
      attend_all<true>(task, head, b * task.block_size, state);
    else
      attend_all<false>(task, head, b * task.block_size, state);
  }
  for (int i = 0; i < count; ++i) {
    float* out = task.out + i / task.heads * task.out_stride + i % task.heads * task.head_dim;
    const float inverse = 1.0f / state.sum[i];
    for (int64_t d = 0; d < task.head_dim; ++d) out[d] = state.acc[i * layout.dim + d] * inverse;
  }
}
