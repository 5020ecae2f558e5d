// The tile of a product, written once over V (quant/isa/<name>/vec.h).

using F = V::F;
constexpr int kLanes = V::kLanes;

/// ROWS × (PARTS · kLanes) sums stay in registers.
template <int ROWS, int PARTS>
void tile(int64_t depth, const float* a, const float* b, float sign, float* out, int64_t stride) {
  constexpr int kCols = PARTS * kLanes;
  static_assert(ROWS <= kMaxTileRows && kCols <= kMaxTileCols);
  F sum[ROWS][PARTS];
  QUERN_UNROLL for (int r = 0; r < ROWS; ++r) QUERN_UNROLL for (int p = 0; p < PARTS; ++p) sum[r][p] =
      V::set1(0);
  for (int64_t k = 0; k < depth; ++k, a += ROWS, b += kCols) {
    F y[PARTS];
    QUERN_UNROLL for (int p = 0; p < PARTS; ++p) y[p] = V::load(b + p * kLanes);
    QUERN_UNROLL for (int r = 0; r < ROWS; ++r) {
      const F x = V::set1(a[r]);
      QUERN_UNROLL for (int p = 0; p < PARTS; ++p) sum[r][p] = V::fma(x, y[p], sum[r][p]);
    }
  }
  const F factor = V::set1(sign);
  QUERN_UNROLL for (int r = 0; r < ROWS; ++r) QUERN_UNROLL for (int p = 0; p < PARTS; ++p) {
    float* to = out + r * stride + p * kLanes;
    V::store(to, V::fma(factor, sum[r][p], V::load(to)));
  }
}

void add_scaled(float* y, const float* x, float factor, int64_t n) {
  const F f = V::set1(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) V::store(y + i, V::fma(f, V::load(x + i), V::load(y + i)));
  for (; i < n; ++i) y[i] += factor * x[i];
}
