// Attention over a paged cache (attention.h), span by span of up to 32 tokens, with an online softmax. Every
// query keeps its own maximum, sum and accumulator and takes the spans in order, so that what else is in the
// batch, or how a prompt was cut into chunks, does not change its result.
//
// A tile of queries goes through a span together: its scores by registers of tokens, its sums of values by
// registers of dimensions, each number of the query's broadcast from memory. Where a task has more than a few
// tiles, what is multiplied as f32 becomes f32 once for all of them.
//
// q8_0: queries are quantized as keys are, and a score's products are those of a matmul: a span of keys is a
// unit of codes (packed.h) whose rows are tokens. Values are multiplied as f32, each code by its weight and
// scale.

/// A tile's queries by registers of the other side: the sums of both stay in registers.
constexpr int kTileQueries = V::kAttentionQueries;
static_assert(kTileQueries <= kMaxTileQueries);

/// Codes of keys are stored + 128; what is left of that where V multiplies them.
constexpr int kKeyBias = V::kBias8 - 128;

/// A span of a q8_0 cache.
struct Codes {
  static constexpr int64_t kGroup = 32;  // dimensions that share a scale
  const uint8_t* keys;                   // [dim / 4][stride][4]: code + 128
  const float* key_scale;                // [group][stride]
  const float* value_scale;              // likewise
  int64_t stride;                        // tokens of the block

  /// What V::dot takes: four dimensions of a register of tokens.
  struct Keys {
    const uint8_t* group;
    int64_t stride;
    template <int J>
    QUERN_INLINE B at(int side) const {
      return V::flip(V::load_bytes(group + 4 * J * stride + side * kPartBytes));
    }
  };
  QUERN_INLINE Keys at(int64_t group, int64_t t) const {
    return {keys + 4 * (group * kGroup / 4 * stride + t), stride};
  }
};

/// Keys and values of a span as the cache holds them, as f32; codes of values without their scales.
template <bool kCodes>
struct CachedSpan {
  static constexpr bool kQ8 = kCodes;
  const KvLayout& layout;
  const std::byte* head;  // the KV head in this block
  int64_t first;          // the span's first token in the block
  Codes codes;

  CachedSpan(const KvLayout& l, const std::byte* h, int64_t f)
      : layout(l),
        head(h),
        first(f),
        codes{reinterpret_cast<const uint8_t*>(h) + 4 * f,
              reinterpret_cast<const float*>(h + l.k_scale_offset()) + f,
              reinterpret_cast<const float*>(h + l.v_scale_offset()) + f, l.tokens} {}

  /// Dimension d of tokens [t, t + kLanes) (f16).
  QUERN_INLINE F key(int64_t d, int64_t t) const {
    return V::load_f16(reinterpret_cast<const uint16_t*>(head) + d * layout.tokens + first + t);
  }
  /// Dimensions [d, d + kLanes) of token t.
  QUERN_INLINE F value(int64_t t, int64_t d) const {
    const int64_t at = (first + t) * layout.dim + d;
    if constexpr (kQ8) return V::load_i8(reinterpret_cast<const int8_t*>(head + layout.v_offset()) + at);
    return V::load_f16(reinterpret_cast<const uint16_t*>(head + layout.v_offset()) + at);
  }
};

/// The same numbers, made before.
template <bool kCodes>
struct ExpandedSpan {
  static constexpr bool kQ8 = kCodes;
  const float* keys;    // [dim][kSpan] (f16)
  const float* values;  // [kSpan][dim]
  int64_t dim;
  Codes codes;
  QUERN_INLINE F key(int64_t d, int64_t t) const { return V::load(keys + d * kSpan + t); }
  QUERN_INLINE F value(int64_t t, int64_t d) const { return V::load(values + t * dim + d); }
};

/// Queries, scaled, tile by tile of W of them. f16: [dim][W]. q8_0: [group][W] of codes by 32, of scales and
/// of what V::dot starts with.
struct Queries {
  float* values;
  int8_t* codes;
  float* scale;
  int32_t* start;
  Queries(float* at, const KvLayout& layout)
      : values(at),
        codes(reinterpret_cast<int8_t*>(at)),
        scale(at + kMaxQueries * layout.groups * Codes::kGroup / 4),
        start(reinterpret_cast<int32_t*>(scale + kMaxQueries * layout.groups)) {}
};

struct AttentionState {
  Gathered to;  // this stretch's
  Queries q;
  float* score;   // [kTileQueries][kSpan]
  float* scaled;  // weights by the values' scales: [group][kTileQueries][kSpan]
  float* keys;    // ExpandedSpan's
  float* values;

  /// The next block is somewhere else in memory: nothing but this says so in time. It is asked for little by
  /// little: a core has room for a few dozen lines that have not come, and stands still for more.
  const std::byte* ahead = nullptr;
  const std::byte* ahead_end = nullptr;
  int64_t ahead_step = 0;
  QUERN_INLINE void prefetch_some() {
    const std::byte* end = ahead + std::min<int64_t>(ahead_step, ahead_end - ahead);
    for (; ahead < end; ahead += 64) __builtin_prefetch(ahead);
  }
};

/// Registers that go by W queries at once: fewer queries leave room for more, and need them, since a sum
/// waits for the one before it.
constexpr int registers_by(int queries) { return queries <= 2 ? 4 : 2; }

/// body(integral_constant N, i): N registers of at most kMost lanes from i on, until `count` lanes are done.
template <int W, int64_t kMost, typename Body>
QUERN_INLINE void for_registers(int64_t count, const Body& body) {
  int64_t i = 0;
  if constexpr (registers_by(W) == 4 && 4 * kLanes <= kMost)
    for (; i + 4 * kLanes <= count; i += 4 * kLanes) body(std::integral_constant<int, 4>{}, i);
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) body(std::integral_constant<int, 2>{}, i);
  for (; i < count; i += kLanes) body(std::integral_constant<int, 1>{}, i);
}

/// score[w][t, t + N · kLanes) of a tile of W queries.
template <int W, int N, typename Span>
QUERN_INLINE void score_lanes(const Span& span, int64_t dims, const float* q, int64_t t, float* score) {
  F s[W][N];
  QUERN_UNROLL for (int w = 0; w < W; ++w) { QUERN_UNROLL for (int n = 0; n < N; ++n) s[w][n] = V::zero(); }
  QUERN_UNROLL_SOME for (int64_t d = 0; d < dims; ++d, q += W) {
    F key[N];
    QUERN_UNROLL for (int n = 0; n < N; ++n) key[n] = span.key(d, t + n * kLanes);
    QUERN_UNROLL for (int w = 0; w < W; ++w) {
      const F x = V::set1(q[w]);
      QUERN_UNROLL for (int n = 0; n < N; ++n) s[w][n] = V::fma(x, key[n], s[w][n]);
    }
  }
  QUERN_UNROLL for (int w = 0; w < W; ++w) {
    QUERN_UNROLL for (int n = 0; n < N; ++n) V::store(score + w * kSpan + t + n * kLanes, s[w][n]);
  }
}

/// The same of codes; kSides registers of tokens.
template <int W, int kSides>
QUERN_INLINE void score_codes(const Codes& span, int64_t groups, const Queries& q, int64_t first, int64_t t,
                              float* score) {
  const int8_t* codes = q.codes + first * groups * Codes::kGroup;
  const float* query_scale = q.scale + first * groups;
  const int32_t* start = q.start + first * groups;
  F s[kSides][W];
  QUERN_UNROLL for (int i = 0; i < kSides; ++i) {
    QUERN_UNROLL for (int w = 0; w < W; ++w) s[i][w] = V::zero();
  }
  for (int64_t g = 0; g < groups; ++g, codes += W * Codes::kGroup, query_scale += W, start += W) {
    typename V::I sums[kSides][W];
    QUERN_UNROLL for (int w = 0; w < W; ++w) {
      QUERN_UNROLL for (int i = 0; i < kSides; ++i) sums[i][w] = V::broadcast(kKeyBias != 0 ? start[w] : 0);
    }
    V::template dot<8, 255>(sums, span.at(g, t), codes);
    QUERN_UNROLL for (int i = 0; i < kSides; ++i) {
      const F key_scale = V::load(span.key_scale + g * span.stride + t + i * kLanes);
      QUERN_UNROLL for (int w = 0; w < W; ++w) s[i][w] =
          V::fma(V::from_int(sums[i][w]), V::mul(key_scale, V::set1(query_scale[w])), s[i][w]);
    }
  }
  QUERN_UNROLL for (int w = 0; w < W; ++w) {
    QUERN_UNROLL for (int i = 0; i < kSides; ++i) V::store(score + w * kSpan + t + i * kLanes, s[i][w]);
  }
}

/// acc[w][d, d + N · kLanes) = shrink[w] · acc + Σ weight[w][t] · value of tokens [from, to).
template <int W, int N, typename Span>
QUERN_INLINE void value_lanes(const Span& span, const float* weight, const float (&shrink)[16], int64_t from,
                              int64_t to, int64_t dim, int64_t d, float* acc) {
  F a[W][N];
  QUERN_UNROLL for (int w = 0; w < W; ++w) {
    QUERN_UNROLL for (int n = 0; n < N; ++n) a[w][n] =
        V::mul(V::load(acc + w * dim + d + n * kLanes), V::set1(shrink[w]));
  }
  QUERN_UNROLL_SOME for (int64_t t = from; t < to; ++t) {
    F value[N];
    QUERN_UNROLL for (int n = 0; n < N; ++n) value[n] = span.value(t, d + n * kLanes);
    QUERN_UNROLL for (int w = 0; w < W; ++w) {
      const F x = V::set1(weight[w * kSpan + t]);
      QUERN_UNROLL for (int n = 0; n < N; ++n) a[w][n] = V::fma(x, value[n], a[w][n]);
    }
  }
  QUERN_UNROLL for (int w = 0; w < W; ++w) {
    QUERN_UNROLL for (int n = 0; n < N; ++n) V::store(acc + w * dim + d + n * kLanes, a[w][n]);
  }
}

/// A tile's weights by the scales of the values of each group.
template <int W>
QUERN_INLINE void scale_weights(const Codes& codes, int64_t groups, int64_t lanes, const float* weight,
                                float* out) {
  for (int64_t g = 0; g < groups; ++g, out += kTileQueries * kSpan) {
    for (int64_t t = 0; t < lanes; t += kLanes) {
      const F scale = V::load(codes.value_scale + g * codes.stride + t);
      QUERN_UNROLL for (int w = 0; w < W; ++w)
          V::store(out + w * kSpan + t, V::mul(V::load(weight + w * kSpan + t), scale));
    }
  }
}

/// Leaves a query the tokens [from, to) of `lanes`.
QUERN_INLINE void hide(float* score, int64_t lanes, int64_t from, int64_t to) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (int64_t t = 0; t < std::min(from, lanes); ++t) score[t] = kNever;
  for (int64_t t = std::max<int64_t>(to, 0); t < lanes; ++t) score[t] = kNever;
}

/// N registers of scores into weights; adds them to `total`.
template <int N>
QUERN_INLINE void weigh(float* score, F highest, F (&total)[kParts]) {
  F x[N];
  QUERN_UNROLL for (int i = 0; i < N; ++i) x[i] = V::sub(V::load(score + i * kLanes), highest);
  vexp(x);
  QUERN_UNROLL for (int i = 0; i < N; ++i) {
    V::store(score + i * kLanes, x[i]);
    total[i % kParts] = V::add(total[i % kParts], x[i]);
  }
}

/// Turns the scores of W queries into weights, relative to the highest score so far, which goes to `top`;
/// adds them to `sum`. shrink[query]: the factor by which what was gathered so far shrinks.
template <int W>
void softmax(float* score, int64_t lanes, float* top, float* sum, float (&shrink)[16]) {
  // In passes, none of which waits for its own results from query to query.
  for (int w = 0; w < W; ++w) {
    F best[kParts];
    for (F& b : best) b = V::set1(top[w]);
    for (int64_t t = 0; t < lanes; t += 16) {
      QUERN_UNROLL for (int p = 0; p < kParts; ++p) best[p] =
          V::max(best[p], V::load(score + w * kSpan + t + p * kLanes));
    }
    const float before = top[w];
    top[w] = V::reduce_max(best);
    shrink[w] = before - top[w];
  }
  for (int w = 0; w < W; w += kLanes) V::store(shrink + w, vexp(V::load(shrink + w)));
  for (int w = 0; w < W; ++w) {
    const F highest = V::set1(top[w]);
    F total[kParts];
    for (F& s : total) s = V::zero();
    if (lanes == kSpan)
      weigh<kSpan / kLanes>(score + w * kSpan, highest, total);
    else
      weigh<kParts>(score + w * kSpan, highest, total);
    QUERN_UNROLL for (int p = 0; p < kParts; ++p) {
      float* lane = sum + 16 * w + p * kLanes;
      V::store(lane, V::fma(V::load(lane), V::set1(shrink[w]), total[p]));
    }
  }
}

/// Takes queries [first, first + W) through the `tokens` tokens from position `base` on.
template <int W, typename Span>
void attend(const AttentionTask& task, const Span& span, int64_t base, int64_t tokens, AttentionState& state,
            int first) {
  const auto sees_from = [&](int64_t query) {
    const int64_t position = task.start + query / task.heads;
    return task.window > 0 ? std::max<int64_t>(0, position + 1 - task.window - base) : 0;
  };
  const auto sees_to = [&](int64_t query) {
    return std::min(tokens, task.start + query / task.heads + 1 - base);
  };
  const int64_t from = sees_from(first), to = sees_to(first + W - 1);
  if (from >= to) return;
  const int64_t dim = task.layout->dim, lanes = (to + 15) / 16 * 16;
  if constexpr (Span::kQ8) {
    constexpr int kSides = V::sides(W);
    for (int64_t t = 0; t < lanes; t += kSides * kLanes) {
      state.prefetch_some();
      score_codes<W, kSides>(span.codes, task.layout->groups, state.q, first, t, state.score);
    }
  } else {
    for_registers<W, kSpan>(lanes, [&](auto n, int64_t t) QUERN_INLINE_LAMBDA {
      state.prefetch_some();
      score_lanes<W, n>(span, task.head_dim, state.q.values + first * dim, t, state.score);
    });
  }
  if (sees_from(first + W - 1) > 0 || sees_to(first) < lanes)
    for (int w = 0; w < W; ++w)
      hide(state.score + w * kSpan, lanes, sees_from(first + w), sees_to(first + w));
  alignas(64) float shrink[16] = {};
  softmax<W>(state.score, lanes, state.to.top + first, state.to.sum + 16 * first, shrink);
  if constexpr (Span::kQ8)
    scale_weights<W>(span.codes, task.layout->groups, lanes, state.score, state.scaled);
  constexpr int64_t kMost = Span::kQ8 ? Codes::kGroup : 4 * kLanes;
  for_registers<W, kMost>(dim, [&](auto n, int64_t d) QUERN_INLINE_LAMBDA {
    state.prefetch_some();
    const float* weight = Span::kQ8 ? state.scaled + d / Codes::kGroup * kTileQueries * kSpan : state.score;
    value_lanes<W, n>(span, weight, shrink, from, to, dim, d, state.to.acc + first * dim);
  });
}

/// The queries of a task, as evenly over its tiles as can be.
struct QueryTiles {
  int count, narrow, wider;  // tiles; queries of most of them; how many tiles have one more
  explicit QueryTiles(int queries)
      : count((queries + kTileQueries - 1) / kTileQueries), narrow(queries / count), wider(queries % count) {}
  QUERN_INLINE int width(int tile) const { return narrow + (tile < wider ? 1 : 0); }
};

template <typename Span>
void attend_all(const AttentionTask& task, const QueryTiles& tiles, const Span& span, int64_t base,
                int64_t tokens, AttentionState& state) {
  int first = 0;
  for (int tile = 0; tile < tiles.count; ++tile) {
    const int width = tiles.width(tile);
    for_each<kTileQueries>([&](auto below) QUERN_INLINE_LAMBDA {
      if (width == below + 1) attend<below + 1>(task, span, base, tokens, state, first);
    });
    first += width;
  }
}

/// What of a span's `tokens` tokens is multiplied as f32.
template <typename Span>
QUERN_INLINE void expand_span(const Span& span, const AttentionTask& task, int64_t tokens,
                              AttentionState& state) {
  const int64_t dim = task.layout->dim, lanes = (tokens + 15) / 16 * 16;
  if constexpr (!Span::kQ8)
    for (int64_t d = 0; d < task.head_dim; ++d)
      for (int64_t t = 0; t < lanes; t += kLanes) V::store(state.keys + d * kSpan + t, span.key(d, t));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t d = 0; d < dim; d += kLanes) V::store(state.values + t * dim + d, span.value(t, d));
}

/// One block, `tokens` of which some query sees, from position `base` on.
template <bool kQ8>
void attend_block(const AttentionTask& task, const QueryTiles& tiles, const std::byte* head, int64_t base,
                  int64_t tokens, AttentionState& state) {
  for (int64_t first = 0; first < tokens; first += kSpan) {
    const int64_t count = std::min(kSpan, tokens - first);
    const CachedSpan<kQ8> span(*task.layout, head, first);
    if (tiles.count > 2) {
      expand_span(span, task, count, state);
      const ExpandedSpan<kQ8> expanded{state.keys, state.values, task.layout->dim, span.codes};
      attend_all(task, tiles, expanded, base + first, count, state);
    } else {
      attend_all(task, tiles, span, base + first, count, state);
    }
  }
}

// Not −∞: a query that sees nothing yet subtracts it from itself.
constexpr float kNothingSeen = std::numeric_limits<float>::lowest();

/// One stretch of the task.
void attend_stretch(const AttentionTask& task, const QueryTiles& tiles, int64_t stretch,
                    AttentionState& state) {
  const KvLayout& layout = *task.layout;
  const auto queries = static_cast<size_t>(task.queries());
  std::memset(state.to.acc, 0, sizeof(float) * queries * static_cast<size_t>(layout.dim));
  std::memset(state.to.sum, 0, sizeof(float) * queries * 16);
  for (size_t i = 0; i < queries; ++i) state.to.top[i] = kNothingSeen;
  const int64_t blocks = stretch_blocks(task.block_size), last = (task.to() - 1) / task.block_size;
  const int64_t end = std::min(last + 1, (stretch + 1) * blocks);
  for (int64_t b = std::max(task.from() / task.block_size, stretch * blocks); b < end; ++b) {
    const std::byte* head = task.head + task.blocks[b] * task.block_bytes;
    if (b < last) {
      state.ahead = task.head + task.blocks[b + 1] * task.block_bytes;
      state.ahead_end = state.ahead + layout.head_bytes();
    }
    const int64_t base = b * task.block_size, tokens = std::min(task.block_size, task.to() - base);
    if (layout.q8)
      attend_block<true>(task, tiles, head, base, tokens, state);
    else
      attend_block<false>(task, tiles, head, base, tokens, state);
  }
}

/// Adds what a later stretch gave.
void merge(const Gathered& all, const Gathered& part, int64_t dim, int queries) {
  for (int i = 0; i < queries; ++i) {
    // As if stretches that a query sees nothing of had not been there.
    if (part.top[i] == kNothingSeen) continue;
    const float top = std::max(all.top[i], part.top[i]);
    const bool first = all.top[i] == kNothingSeen;
    const F keep = vexp(V::set1(all.top[i] - top)), add = vexp(V::set1(part.top[i] - top));
    const auto join = [&](float* to, const float* from, int64_t count) QUERN_INLINE_LAMBDA {
      for (int64_t d = 0; d < count; d += kLanes) {
        const F x = V::load(from + d);
        V::store(to + d, first ? x : V::fma(x, add, V::mul(V::load(to + d), keep)));
      }
    };
    join(all.acc + i * dim, part.acc + i * dim, dim);
    join(all.sum + 16 * i, part.sum + 16 * i, 16);
    all.top[i] = top;
  }
}

void write_out(const AttentionTask& task, const Gathered& all) {
  for (int i = 0; i < task.queries(); ++i) {
    float* out = task.out + i / task.heads * task.out_stride + i % task.heads * task.head_dim;
    F sum[kParts];
    QUERN_UNROLL for (int p = 0; p < kParts; ++p) sum[p] = V::load(all.sum + 16 * i + p * kLanes);
    const float inverse = 1.0f / V::reduce_add(sum);
    for (int64_t d = 0; d < task.head_dim; ++d) out[d] = all.acc[i * task.layout->dim + d] * inverse;
  }
}

void merge_attention(const AttentionTask& task, float* gathered) {
  const int64_t dim = task.layout->dim;
  const int queries = task.queries();
  const Gathered all(gathered, dim, queries);
  for (int64_t s = task.first_stretch() + 1; s <= task.last_stretch(); ++s) {
    gathered += Gathered::floats(dim, queries);
    merge(all, Gathered(gathered, dim, queries), dim, queries);
  }
  write_out(task, all);
}

/// `queries` of a tile, f16.
void arrange_values(const AttentionTask& task, int first, int queries, const Queries& to) {
  float* panel = to.values + first * task.layout->dim;
  for (int w = 0; w < queries; ++w) {
    const float* q = task.query(first + w);
    for (int64_t d = 0; d < task.head_dim; ++d) panel[d * queries + w] = q[d] * task.scale;
  }
}

/// The same as codes; dimensions that do not exist are 0.
void arrange_codes(const AttentionTask& task, int first, int queries, const Queries& to) {
  const int64_t groups = task.layout->groups;
  for (int64_t g = 0, at = first * groups; g < groups; ++g) {
    const int64_t count = std::min(Codes::kGroup, task.head_dim - g * Codes::kGroup);
    for (int w = 0; w < queries; ++w, ++at) {
      const float* q = task.query(first + w) + g * Codes::kGroup;
      alignas(64) float x[Codes::kGroup] = {};
      for (int64_t d = 0; d < count; ++d) x[d] = q[d] * task.scale;
      int32_t sums[2];
      quantize_row(x, Codes::kGroup, to.codes + at * Codes::kGroup, 0, to.scale + at, sums, 1);
      to.start[at] = kKeyBias * (sums[0] + sums[1]);
    }
  }
}

void attention(const AttentionTask& task, float* scratch) {
  const KvLayout& layout = *task.layout;
  const int queries = task.queries();
  const AttentionScratch at(layout);
  const Gathered all(scratch + at.all, layout.dim, queries), part(scratch + at.part, layout.dim, queries);
  AttentionState state{.to = all,
                       .q = Queries(scratch, layout),
                       .score = scratch + at.score,
                       .scaled = scratch + at.scaled,
                       .keys = scratch + at.keys,
                       .values = scratch + at.values};
  const QueryTiles tiles(queries);
  const int64_t by_values = registers_by(tiles.narrow) * kLanes;
  const int64_t by_keys = layout.q8 ? V::sides(tiles.narrow) * kLanes : by_values;
  const int64_t passes = layout.tokens / by_keys + layout.dim / by_values;
  state.ahead_step = (layout.head_bytes() / (tiles.count * std::max<int64_t>(1, passes)) + 63) / 64 * 64;
  for (int tile = 0, i = 0; tile < tiles.count; i += tiles.width(tile++))
    (layout.q8 ? arrange_codes : arrange_values)(task, i, tiles.width(tile), state.q);
  if (task.gathered != nullptr) {
    state.to = Gathered(task.gathered, layout.dim, queries);
    return attend_stretch(task, tiles, task.stretch, state);
  }
  attend_stretch(task, tiles, task.first_stretch(), state);
  for (int64_t s = task.first_stretch() + 1; s <= task.last_stretch(); ++s) {
    state.to = part;
    attend_stretch(task, tiles, s, state);
    merge(all, part, layout.dim, queries);
  }
  write_out(task, all);
}
