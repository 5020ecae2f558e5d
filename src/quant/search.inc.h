// The search of fit.h over 16 groups at once, written once over the vector type V of an ISA (isa/*/vec.h).
// Operation by operation it is what fit.cc does for one group; only what the codes cannot reach is not
// clamped.

using F = V::F;
using M = V::M;
constexpr int kLanes = V::kLanes;

struct alignas(64) Lanes {
  float v[16];
};

/// 16 groups, transposed: element k of all of them side by side.
struct Groups {
  Lanes x[32], y[32], w[32];
  Lanes lowest, range, unit, cap, sum_w, sum_wy;
  Lanes q, qq, yq;      // sums of the best candidate
  Lanes scale, offset;  // in units of x: x ≈ scale · q + offset
  int size;             // 16 or 32
  float bottom, top;    // codes
};

QUERN_INLINE F at(const Lanes& lanes, int lane) { return V::load(lanes.v + lane); }
QUERN_INLINE void put(Lanes& lanes, int lane, F x) { V::store(lanes.v + lane, x); }
QUERN_INLINE F negative(F x) { return V::sub(V::set1(-0.0f), x); }
/// codec::inverse_of.
QUERN_INLINE F inverse_of(F x) {
  const F inverse = V::div(V::set1(1), x);
  return V::select(V::less(V::abs(inverse), V::set1(std::numeric_limits<float>::infinity())), inverse,
                   V::set1(0));
}
/// codec::code_of.
QUERN_INLINE F code_of(F x, F inverse, F low, F high) {
  const F clamped = V::max(V::min(V::mul(x, inverse), high), low);
  return V::sub(V::add(clamped, V::set1(kRound)), V::set1(kRound));
}

struct Sums {
  F q, qq, yq;
};

/// Sums of kCount candidates, q = round((y − origin) · inverse). A candidate adds its terms in the order of
/// k.
template <int kCount, bool kClampBottom, bool kClampTop>
QUERN_INLINE void sums_of(const Groups& g, int lane, F origin, const F (&inverse)[kCount],
                          Sums (&out)[kCount]) {
  const F bottom = V::set1(kRound + g.bottom), top = V::set1(kRound + g.top), round = V::set1(kRound);
  F q[kCount], qq[kCount], yq[kCount];
  QUERN_UNROLL for (int c = 0; c < kCount; ++c) q[c] = qq[c] = yq[c] = V::set1(0);
  for (int k = 0; k < g.size; ++k) {
    const F y = at(g.y[k], lane), w = at(g.w[k], lane);
    const F shifted = V::sub(y, origin);
    QUERN_UNROLL for (int c = 0; c < kCount; ++c) {
      F code = V::fma(shifted, inverse[c], round);
      if constexpr (kClampTop) code = V::min(code, top);
      if constexpr (kClampBottom) code = V::max(code, bottom);
      code = V::sub(code, round);
      const F weighted = V::mul(w, code);
      q[c] = V::add(q[c], weighted);
      qq[c] = V::fma(weighted, code, qq[c]);
      yq[c] = V::fma(weighted, y, yq[c]);
    }
  }
  QUERN_UNROLL for (int c = 0; c < kCount; ++c) out[c] = {q[c], qq[c], yq[c]};
}

QUERN_INLINE Sums sums_at(const Groups& g, int lane, F origin, F inverse) {
  Sums out[1];
  sums_of<1, true, true>(g, lane, origin, {inverse}, out);
  return out[0];
}

struct Judged {
  F numerator, denominator;            // what the candidate explains
  F scale, offset, scale_denominator;  // y ≈ (scale · q + offset) / scale_denominator
};

template <bool kHasMin>
QUERN_INLINE Judged judge(const Groups& g, int lane, const Sums& s) {
  const F zero = V::set1(0), one = V::set1(1);
  const F worst = V::set1(-1e30f), widest = V::set1(kHasMin ? g.top : -g.bottom);
  const M some = V::less(zero, s.qq);
  if constexpr (!kHasMin) {
    const M valid = V::both(some, V::less(zero, s.yq));
    return {V::select(valid, V::mul(s.yq, s.yq), worst), V::select(valid, s.qq, one),
            V::select(valid, s.yq, one), zero, V::select(valid, s.qq, widest)};
  }
  const F w = at(g.sum_w, lane), wy = at(g.sum_wy, lane), cap = at(g.cap, lane);
  const F wqq = V::mul(w, s.qq);
  const F determinant = V::fnma(s.q, s.q, wqq);
  const F slope = V::fnma(wy, s.q, V::mul(w, s.yq));
  const F offset = V::fnma(s.q, s.yq, V::mul(s.qq, wy));
  const M free = V::both(V::both(V::less(V::mul(V::set1(kSolvable), wqq), determinant), V::less(zero, slope)),
                         V::less_equal(offset, V::mul(cap, determinant)));
  const F capped = V::fnma(cap, s.q, s.yq);
  const M bound = V::both(some, V::less(zero, capped));
  const F missed = V::fnma(cap, w, wy);
  const F capped_gain = V::fnma(V::mul(missed, missed), s.qq, V::mul(V::mul(capped, capped), w));
  return {V::select(free, V::mul(slope, slope), V::select(bound, capped_gain, worst)),
          V::select(free, determinant, V::select(bound, s.qq, one)),
          V::select(free, slope, V::select(bound, capped, one)),
          V::select(free, offset, V::select(bound, V::mul(cap, s.qq), zero)),
          V::select(free, determinant, V::select(bound, s.qq, widest))};
}

struct Best {
  Sums sums;
  F numerator, denominator;
};

template <bool kHasMin>
QUERN_INLINE void consider(const Groups& g, int lane, const Sums& s, bool first, Best& best) {
  const Judged j = judge<kHasMin>(g, lane, s);
  if (first) {
    best = {s, j.numerator, j.denominator};
    return;
  }
  const M better = V::less(V::mul(best.numerator, j.denominator), V::mul(j.numerator, best.denominator));
  best.sums = {V::select(better, s.q, best.sums.q), V::select(better, s.qq, best.sums.qq),
               V::select(better, s.yq, best.sums.yq)};
  best.numerator = V::select(better, j.numerator, best.numerator);
  best.denominator = V::select(better, j.denominator, best.denominator);
}

/// Four candidates from `step` on, `width` apart. y is at most 1 in magnitude, so less than half a code
/// beyond the last one needs no clamp.
template <bool kHasMin>
QUERN_INLINE void try_four(const Groups& g, int lane, float width, int step, bool first, Best& best) {
  F inverse[4];
  const float q_max = kHasMin ? g.top : -g.bottom;
  for (int c = 0; c < 4; ++c) inverse[c] = V::set1(q_max + width * static_cast<float>(step + c));
  Sums sums[4];
  const F zero = V::set1(0);
  const bool beyond = width * static_cast<float>(step + 3) > 0.45f;
  if (beyond)
    sums_of<4, !kHasMin, true>(g, lane, zero, inverse, sums);
  else
    sums_of<4, false, !kHasMin>(g, lane, zero, inverse, sums);
  for (int c = 0; c < 4; ++c) consider<kHasMin>(g, lane, sums[c], first && c == 0, best);
}

template <bool kHasMin>
void search(Groups& g, const ScaleSearch& s) {
  for (int lane = 0; lane < 16; lane += kLanes) {
    Best best = {{V::set1(0), V::set1(0), V::set1(0)}, V::set1(0), V::set1(0)};
    for (int step = s.first; step <= s.last; step += 4)
      try_four<kHasMin>(g, lane, s.step, step, step == s.first, best);
    for (int i = 0; i < s.again; ++i) {
      const Judged j = judge<kHasMin>(g, lane, best.sums);
      const F inverse = V::div(V::set1(1), V::div(j.scale, j.scale_denominator));
      const Sums sums = sums_at(g, lane, V::div(j.offset, j.scale_denominator), inverse);
      consider<kHasMin>(g, lane, sums, false, best);
    }
    put(g.q, lane, best.sums.q);
    put(g.qq, lane, best.sums.qq);
    put(g.yq, lane, best.sums.yq);
    const Judged j = judge<kHasMin>(g, lane, best.sums);
    const F scale = V::div(j.scale, j.scale_denominator), offset = V::div(j.offset, j.scale_denominator);
    const F range = at(g.range, lane);
    put(g.scale, lane, V::mul(scale, kHasMin ? range : negative(range)));
    put(g.offset, lane, V::fma(offset, range, at(g.lowest, lane)));
  }
}

// x, y and what y is made with.

void transpose(const float* x, Lanes* out, int size) {
  for (int lane = 0; lane < 16; lane += kLanes) {
    for (int k = 0; k < size; k += 4) {
      F columns[4];
      V::load_columns(x + lane * size + k, static_cast<size_t>(size), columns);
      for (int c = 0; c < 4; ++c) put(out[k + c], lane, columns[c]);
    }
  }
}

template <bool kHasMin>
void scale_groups(Groups& g, bool downward) {
  const F zero = V::set1(0);
  for (int lane = 0; lane < 16; lane += kLanes) {
    F low = zero, range = zero;
    if (kHasMin) {
      F high = at(g.x[0], lane);
      if (!downward) low = high;
      for (int k = 0; k < g.size; ++k) {
        low = V::min(at(g.x[k], lane), low);
        high = V::max(at(g.x[k], lane), high);
      }
      range = V::sub(high, low);
    } else {
      for (int k = 0; k < g.size; ++k) {
        const F x = at(g.x[k], lane);
        range = V::select(V::less(V::abs(range), V::abs(x)), x, range);
      }
    }
    const M flat = V::less(V::abs(range), V::set1(kFlat));
    range = V::select(flat, zero, range);
    const F unit = V::select(flat, zero, V::div(V::set1(kHasMin ? 1.0f : -1.0f), range));
    put(g.lowest, lane, low);
    put(g.range, lane, range);
    put(g.unit, lane, unit);
    put(g.cap, lane, kHasMin && downward ? V::mul(negative(low), unit) : V::set1(1e30f));
    for (int k = 0; k < g.size; ++k) put(g.y[k], lane, V::mul(V::sub(at(g.x[k], lane), low), unit));
  }
}

QUERN_INLINE F square_sum(const Groups& g, int lane) {
  F sum = V::set1(0);
  for (int k = 0; k < g.size; ++k) {
    const F x = at(g.x[k], lane);
    sum = V::fma(x, x, sum);
  }
  return sum;
}

/// Importance (in g.w) becomes weights where it counts; `counts` says where.
QUERN_INLINE M weigh_by_importance(Groups& g, int lane, F spread) {
  const F zero = V::set1(0), infinity = V::set1(std::numeric_limits<float>::infinity());
  F sum = zero;
  for (int k = 0; k < g.size; ++k) {
    const F x = at(g.x[k], lane);
    const F w = V::mul(at(g.w[k], lane), V::sqrt(V::fma(x, x, spread)));
    put(g.w[k], lane, w);
    sum = V::add(sum, w);
  }
  const F inverse = V::div(V::set1(1), sum);
  for (int k = 0; k < g.size; ++k) put(g.w[k], lane, V::mul(at(g.w[k], lane), inverse));
  return V::both(V::less(zero, sum), V::both(V::less(zero, inverse), V::less(inverse, infinity)));
}

/// Fills g.w and its sums. `spread`: of each lane's block, where there is importance (in g.w).
void weigh_groups(Groups& g, const Lanes* spread) {
  const F zero = V::set1(0);
  for (int lane = 0; lane < 16; lane += kLanes) {
    const F typical = V::sqrt(V::div(square_sum(g, lane), V::set1(static_cast<float>(g.size))));
    const F unit = V::abs(at(g.unit, lane));
    M counts = V::less(zero, zero);
    if (spread != nullptr) counts = weigh_by_importance(g, lane, at(*spread, lane));
    F sum_w = zero, sum_wy = zero;
    for (int k = 0; k < g.size; ++k) {
      F w = V::mul(V::add(typical, V::abs(at(g.x[k], lane))), unit);
      if (spread != nullptr) w = V::select(counts, at(g.w[k], lane), w);
      put(g.w[k], lane, w);
      sum_w = V::add(sum_w, w);
      sum_wy = V::fma(w, at(g.y[k], lane), sum_wy);
    }
    put(g.sum_w, lane, sum_w);
    put(g.sum_wy, lane, sum_wy);
  }
}

void block_spreads(const Groups& g, int groups, Lanes& out) {
  Lanes squares;
  for (int lane = 0; lane < 16; lane += kLanes) put(squares, lane, square_sum(g, lane));
  for (int first = 0; first < 16; first += groups) {
    float sum = 0;
    for (int i = 0; i < groups; ++i) sum += squares.v[first + i];
    for (int i = 0; i < groups; ++i)
      out.v[first + i] = sum / static_cast<float>(groups > 1 ? groups * g.size / 2 : g.size);
  }
}

// From scales to codes.

/// Codes of n values, n a multiple of 16: round((x + min) / scale) + zero.
QUERN_INLINE void take_codes(const float* x, int n, float inverse, float min, float bottom, float top,
                             int zero, uint8_t* code) {
  for (int k = 0; k < n; k += kLanes) {
    const F value =
        code_of(V::add(V::load(x + k), V::set1(min)), V::set1(inverse), V::set1(bottom), V::set1(top));
    V::store_bytes(code + k, V::add(value, V::set1(static_cast<float>(zero))));
  }
}

struct Rounded {
  Lanes scale, min, inverse, offset;  // codes; 1 / (d · scale); dmin · min
};

/// g.scale and −g.offset as integers, together.
QUERN_INLINE void round_together(const Groups& g, int lane, F near, F d, F dmin, F limit, Rounded& out) {
  const F zero = V::set1(0), w = at(g.sum_w, lane), wy = at(g.sum_wy, lane), q = at(g.q, lane);
  const F unit = at(g.unit, lane), lowest = at(g.lowest, lane);
  const F determinant = V::fnma(q, q, V::mul(w, at(g.qq, lane)));
  const F slope = V::fnma(wy, q, V::mul(w, at(g.yq, lane)));
  const F inverse_w = inverse_of(w), inverse_dmin = inverse_of(dmin);
  F least = zero, best_scale = zero, best_min = zero;
  for (int i = -1; i <= 1; ++i) {
    const F scale = V::max(V::min(V::add(near, V::set1(static_cast<float>(i))), limit), zero);
    const F a = V::mul(V::mul(d, scale), unit);
    const F free_offset = V::mul(V::fnma(a, q, wy), inverse_w);
    const F min =
        code_of(V::fnma(free_offset, at(g.range, lane), negative(lowest)), inverse_dmin, zero, limit);
    const F offset = V::mul(negative(V::fma(dmin, min, lowest)), unit);
    const F missed = V::fma(w, offset, V::fma(a, q, negative(wy)));
    const F error = V::fma(a, V::fma(a, determinant, V::mul(V::set1(-2), slope)), V::mul(missed, missed));
    const M better = V::less(error, least);
    least = i == -1 ? error : V::select(better, error, least);
    best_scale = i == -1 ? scale : V::select(better, scale, best_scale);
    best_min = i == -1 ? min : V::select(better, min, best_min);
  }
  put(out.scale, lane, best_scale);
  put(out.min, lane, best_min);
}

/// Of the scales around `near`, the one whose own codes fit best.
QUERN_INLINE F best_scale(const Groups& g, int lane, F near, F d, F limit) {
  F least = V::set1(0), best = least;
  for (int i = -1; i <= 1; ++i) {
    const F scale = V::max(V::min(V::add(near, V::set1(static_cast<float>(i))), V::sub(limit, V::set1(1))),
                           negative(limit));
    const F a = V::mul(V::mul(d, scale), at(g.unit, lane));
    const Sums sums = sums_at(g, lane, V::set1(0), inverse_of(a));
    const F error = V::mul(a, V::fma(a, sums.qq, V::mul(V::set1(-2), sums.yq)));
    const M better = V::less(error, least);
    least = i == -1 ? error : V::select(better, error, least);
    best = i == -1 ? scale : V::select(better, scale, best);
  }
  return best;
}

void round_lanes(Groups& g, const ScaleSearch& s, bool has_min, float scale_limit, const Lanes& d,
                 const Lanes& dmin, Rounded& out) {
  const F limit = V::set1(scale_limit), zero = V::set1(0);
  for (int lane = 0; lane < 16; lane += kLanes) {
    const F d_lane = at(d, lane), dmin_lane = at(dmin, lane), scale = at(g.scale, lane);
    const F inverse = inverse_of(d_lane);
    if (has_min) {
      round_together(g, lane, code_of(scale, inverse, zero, limit), d_lane, dmin_lane, limit, out);
      if (s.reconsider) {
        const F unit = at(g.unit, lane);
        const F offset = V::mul(negative(V::fma(dmin_lane, at(out.min, lane), at(g.lowest, lane))), unit);
        const F a = V::mul(V::mul(d_lane, at(out.scale, lane)), unit);
        const Sums sums = sums_at(g, lane, offset, inverse_of(a));
        put(g.q, lane, sums.q);
        put(g.qq, lane, sums.qq);
        put(g.yq, lane, sums.yq);
        round_together(g, lane, at(out.scale, lane), d_lane, dmin_lane, limit, out);
      }
    } else {
      F code = code_of(scale, inverse, negative(limit), V::sub(limit, V::set1(1)));
      if (s.reconsider) code = best_scale(g, lane, code, d_lane, limit);
      put(out.scale, lane, code);
      put(out.min, lane, zero);
    }
    put(out.inverse, lane, inverse_of(V::mul(d_lane, at(out.scale, lane))));
    put(out.offset, lane, V::mul(dmin_lane, at(out.min, lane)));
  }
}

/// The f16 scale of a block: of the largest scale, or without minimums of the one of largest magnitude.
QUERN_INLINE float block_scale(const float* scale, int groups, bool has_min, float limit) {
  float extreme = has_min ? scale[0] : 0;
  for (int i = 0; i < groups; ++i) {
    if (has_min ? extreme < scale[i] : std::fabs(scale[i]) > std::fabs(extreme)) extreme = scale[i];
  }
  return f16_to_f32(codec::f16_scale(extreme / (has_min ? limit : -limit)));
}

void fit_grouped(Groups& g, const AffineShape& shape, const float* x, const ScaleSearch& s,
                 AffineBlock* out) {
  const int groups = 256 / g.size;
  const auto limit = static_cast<float>(shape.scale_limit);
  Lanes mins, d, dmin;
  for (int lane = 0; lane < 16; lane += kLanes) put(mins, lane, negative(at(g.offset, lane)));
  for (int first = 0; first < 16; first += groups) {
    AffineBlock& block = out[first / groups];
    block.d = block_scale(g.scale.v + first, groups, shape.has_min, limit);
    block.dmin = shape.has_min ? block_scale(mins.v + first, groups, true, limit) + 0.0f : 0;  // see fit.cc
    for (int i = first; i < first + groups; ++i) {
      d.v[i] = block.d;
      dmin.v[i] = block.dmin;
    }
  }
  Rounded codes;
  round_lanes(g, s, shape.has_min, limit, d, dmin, codes);
  for (int i = 0; i < 16; ++i) {
    AffineBlock& block = out[i / groups];
    block.scale[i % groups] = static_cast<int16_t>(codes.scale.v[i]);
    block.min[i % groups] = static_cast<uint8_t>(codes.min.v[i]);
    take_codes(x + i * g.size, g.size, codes.inverse.v[i], codes.offset.v[i], g.bottom, g.top, shape.zero,
               block.code + i % groups * g.size);
  }
}

/// One scale (and minimum) a block: the group is the block.
void fit_single(const Groups& g, const AffineShape& shape, const float* x, AffineBlock* out) {
  for (int i = 0; i < 16; ++i) {
    AffineBlock& block = out[i];
    block.d = f16_to_f32(codec::f16_scale(g.scale.v[i]));
    block.dmin = shape.has_min ? -f16_to_f32(codec::f16_clamped(g.offset.v[i])) : 0;
    codec::unit_scales(block, shape.has_min);
    take_codes(x + i * g.size, g.size, codec::inverse_of(block.d), block.dmin, g.bottom, g.top, shape.zero,
               block.code);
  }
}

/// Eight bits: symmetric, ±127.
void fit_bytes(const AffineShape& shape, int size, int blocks, const float* x, AffineBlock* out) {
  for (int b = 0; b < blocks; ++b, x += size) {
    F largest = V::set1(0);
    for (int k = 0; k < size; k += kLanes) largest = V::max(V::abs(V::load(x + k)), largest);
    float each[kLanes];
    V::store(each, largest);
    float extreme = 0;
    for (int i = 0; i < kLanes; ++i) extreme = each[i] > extreme ? each[i] : extreme;
    AffineBlock& block = out[b];
    block.d = shape.wide_d ? extreme / 127 : f16_to_f32(codec::f16_scale(extreme / 127));
    const float inverse = codec::inverse_of(block.d);
    if (inverse == 0) block.d = 0;
    block.dmin = 0;
    codec::unit_scales(block, false);
    take_codes(x, size, inverse, 0, -127, 127, shape.zero, block.code);
  }
}

template <bool kHasMin>
void fit_groups(Groups& g, const AffineShape& shape, const float* x, const float* importance,
                AffineBlock* out) {
  scale_groups<kHasMin>(g, shape.has_scales);
  if (!shape.has_scales && importance == nullptr) {
    // The extreme values become the extreme codes.
    const F share = V::div(V::set1(1), V::set1(kHasMin ? g.top : -g.bottom));
    for (int lane = 0; lane < 16; lane += kLanes) {
      const F range = at(g.range, lane);
      put(g.scale, lane, V::mul(share, kHasMin ? range : negative(range)));
      put(g.offset, lane, V::fma(V::set1(0), range, at(g.lowest, lane)));
    }
    return fit_single(g, shape, x, out);
  }
  Lanes spreads;
  if (importance != nullptr) {
    transpose(importance, g.w, g.size);
    block_spreads(g, shape.has_scales ? 256 / g.size : 1, spreads);
  }
  weigh_groups(g, importance == nullptr ? nullptr : &spreads);
  const ScaleSearch& s = importance == nullptr ? kPlainSearch
                         : shape.has_scales    ? kImportantSearch
                                               : kImportantSingleSearch;
  search<kHasMin>(g, s);
  if (shape.has_scales)
    fit_grouped(g, shape, x, s, out);
  else
    fit_single(g, shape, x, out);
}

void fit_tile(const AffineShape& shape, size_t block, const float* values, const float* importance,
              AffineBlock* out) {
  const int weights = shape.group == 256 ? 256 : 16 * shape.group;
  alignas(64) float x[kTileWeights];
  for (int k = 0; k < weights; k += kLanes) {
    const F value = V::load(values + k);
    const F clamped = V::max(V::min(value, V::set1(kLargest)), V::set1(-kLargest));
    V::store(x + k, shape.wide_d ? value : clamped);
  }
  if (shape.bits == 8)
    return fit_bytes(shape, static_cast<int>(block), weights / static_cast<int>(block), x, out);
  Groups g;
  g.size = shape.group;
  g.bottom = static_cast<float>(-shape.zero);
  g.top = static_cast<float>((1 << shape.bits) - 1 - shape.zero);
  transpose(x, g.x, g.size);
  if (shape.has_min)
    fit_groups<true>(g, shape, x, importance, out);
  else
    fit_groups<false>(g, shape, x, importance, out);
}

bool load_values(DType dtype, const std::byte* bytes, size_t n, float* out) {
  F sum = V::set1(0);  // of zeros, unless a value is not finite
  for (size_t k = 0; k < n; k += kLanes) {
    F x;
    if (dtype == DType::F16) {
      x = V::load_f16(bytes + 2 * k);
    } else if (dtype == DType::BF16) {
      x = V::load_bf16(bytes + 2 * k);
    } else {
      float values[kLanes];
      std::memcpy(values, bytes + 4 * k, sizeof(values));
      x = V::load(values);
    }
    V::store(out + k, x);
    sum = V::fma(x, V::set1(0), sum);
  }
  float each[kLanes];
  V::store(each, sum);
  bool finite = true;
  for (const float zero : each) finite &= zero == 0;
  return finite;
}
