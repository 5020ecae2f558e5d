// Matrices of F32, F16 and BF16 by f32 activations. Each output is summed over 16 lanes: lane j takes k ≡ j
// (mod 16) in ascending order, then the lanes are added pairwise, distance 8, 4, 2, 1.

struct F32Row {
  using Element = float;
  static QUERN_INLINE F load(const float* p) { return V::load(p); }
};
struct F16Row {
  using Element = uint16_t;
  static QUERN_INLINE F load(const uint16_t* p) { return V::load_f16(p); }
};
struct Bf16Row {
  using Element = uint16_t;
  static QUERN_INLINE F load(const uint16_t* p) { return V::load_bf16(p); }
};

template <class Row, int R, int C>
QUERN_INLINE void float_step(const typename Row::Element* const (&row)[R], const float* const (&x)[C],
                             int64_t k, F (&sum)[R][C][kParts]) {
  QUERN_UNROLL for (int p = 0; p < kParts; ++p) {
    F w[R];
    QUERN_UNROLL for (int r = 0; r < R; ++r) w[r] = Row::load(row[r] + k + p * kLanes);
    QUERN_UNROLL for (int c = 0; c < C; ++c) {
      const F v = V::load(x[c] + k + p * kLanes);
      QUERN_UNROLL for (int r = 0; r < R; ++r) sum[r][c][p] = V::fma(w[r], v, sum[r][c][p]);
    }
  }
}

/// Rows [r0, r0 + R) by columns [c0, c0 + C).
template <class Row, int R, int C>
void float_block(const FloatTile& job, int r0, int c0) {
  using Element = typename Row::Element;
  const Element* row[R];
  const float* x[C];
  for (int r = 0; r < R; ++r) row[r] = reinterpret_cast<const Element*>(job.first) + (r0 + r) * job.cols;
  for (int c = 0; c < C; ++c) x[c] = job.in + (c0 + c) * job.in_stride;
  F sum[R][C][kParts];
  QUERN_UNROLL for (int r = 0; r < R; ++r) QUERN_UNROLL for (int c = 0; c < C; ++c)
      QUERN_UNROLL for (int p = 0; p < kParts; ++p) sum[r][c][p] = V::zero();
  int64_t k = 0;
  for (; k + 16 <= job.cols; k += 16) float_step<Row, R, C>(row, x, k, sum);
  if (k < job.cols) {
    const size_t left = static_cast<size_t>(job.cols - k);
    Element row_tail[R][16] = {};
    float x_tail[C][16] = {};
    for (int r = 0; r < R; ++r) {
      std::memcpy(row_tail[r], row[r] + k, left * sizeof(Element));
      row[r] = row_tail[r];
    }
    for (int c = 0; c < C; ++c) {
      std::memcpy(x_tail[c], x[c] + k, left * sizeof(float));
      x[c] = x_tail[c];
    }
    float_step<Row, R, C>(row, x, 0, sum);
  }
  QUERN_UNROLL for (int r = 0; r < R; ++r) QUERN_UNROLL for (int c = 0; c < C; ++c)
      job.acc[(c0 + c) * 16 + r0 + r] = V::reduce_add(sum[r][c]);
}

template <class Row, int C>
void float_columns(const FloatTile& job, int c0) {
  int r = 0;
  for (; r + V::kFloatRows <= job.rows; r += V::kFloatRows) float_block<Row, V::kFloatRows, C>(job, r, c0);
  for (; r < job.rows; ++r) float_block<Row, 1, C>(job, r, c0);
}

template <class Row>
void float_rows(const FloatTile& job) {
  int c = 0;
  for (; c + V::kFloatCols <= job.columns; c += V::kFloatCols) float_columns<Row, V::kFloatCols>(job, c);
  for (; c < job.columns; ++c) float_columns<Row, 1>(job, c);
}

void float_tile(const FloatTile& job) {
  switch (job.dtype) {
    case DType::F16:
      return float_rows<F16Row>(job);
    case DType::BF16:
      return float_rows<Bf16Row>(job);
    default:
      return float_rows<F32Row>(job);
  }
}
