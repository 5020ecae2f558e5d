// Norms, activations, and int8 quantization of the matmuls' inputs.

/// A logical vector of 16 floats from `p`, of which only the first n exist (the rest are 0).
QUERN_INLINE void load_tail(const float* p, int64_t n, float (&out)[16]) {
  for (int i = 0; i < 16; ++i) out[i] = i < n ? p[i] : 0.0f;
}

/// e^x, within 2 ulp; 0 below −87.3, where the result would be subnormal. Range reduction by ln 2 in two
/// parts, then Cephes' polynomial of degree 5.
///
/// Of N registers step by step: one alone waits for itself all the way.
template <int N>
QUERN_INLINE void vexp(F (&x)[N]) {
  const F low = V::set1(-87.3f);
  const F magic = V::set1(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
  F shifted[N], r[N], p[N];
  QUERN_UNROLL for (int i = 0; i < N; ++i) r[i] = V::min(V::max(x[i], low), V::set1(88.3f));
  QUERN_UNROLL for (int i = 0; i < N; ++i) shifted[i] = V::fma(r[i], V::set1(1.44269504088896341f), magic);
  QUERN_UNROLL for (int i = 0; i < N; ++i) {
    const F n = V::sub(shifted[i], magic);
    r[i] = V::fnma(n, V::set1(0.693359375f), r[i]);
    r[i] = V::fnma(n, V::set1(-2.12194440e-4f), r[i]);
  }
  QUERN_UNROLL for (int i = 0; i < N; ++i) p[i] = V::set1(1.9875691500e-4f);
  for (const float c :
       {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    QUERN_UNROLL for (int i = 0; i < N; ++i) p[i] = V::fma(p[i], r[i], V::set1(c));
  QUERN_UNROLL for (int i = 0; i < N; ++i) {
    const F y = V::add(V::fma(p[i], V::mul(r[i], r[i]), r[i]), V::set1(1.0f));
    x[i] = V::zero_below(x[i], low, V::scale_by_bits(y, shifted[i]));
  }
}

QUERN_INLINE F vexp(F x) {
  F one[1] = {x};
  vexp(one);
  return one[0];
}

void rms_norm(float* out, const float* x, const float* gain, int64_t n, float eps) {
  F sum[kParts];
  for (F& s : sum) s = V::zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    QUERN_UNROLL for (int p = 0; p < kParts; ++p) {
      const F v = V::load(x + i + p * kLanes);
      sum[p] = V::fma(v, v, sum[p]);
    }
  }
  if (i < n) {
    float tail[16];
    load_tail(x + i, n - i, tail);
    for (int p = 0; p < kParts; ++p) {
      const F v = V::load(tail + p * kLanes);
      sum[p] = V::fma(v, v, sum[p]);
    }
  }
  const float scale = 1.0f / std::sqrt(V::reduce_add(sum) / static_cast<float>(n) + eps);
  for (i = 0; i + kLanes <= n; i += kLanes)
    V::store(out + i, V::mul(V::mul(V::load(x + i), V::set1(scale)), V::load(gain + i)));
  for (; i < n; ++i) out[i] = x[i] * scale * gain[i];
}

/// A logical vector.
QUERN_INLINE void silu_mul_16(float* out, const float* gate, const float* up) {
  F g[kParts], e[kParts];
  QUERN_UNROLL for (int p = 0; p < kParts; ++p) {
    g[p] = V::load(gate + p * kLanes);
    e[p] = V::sub(V::zero(), g[p]);
  }
  vexp(e);
  QUERN_UNROLL for (int p = 0; p < kParts; ++p)
      V::store(out + p * kLanes, V::mul(V::div(g[p], V::add(V::set1(1.0f), e[p])), V::load(up + p * kLanes)));
}

void silu_mul(float* out, const float* gate, const float* up, int64_t n) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) silu_mul_16(out + i, gate + i, up + i);
  if (i < n) {
    float g[16], u[16];
    load_tail(gate + i, n - i, g);
    load_tail(up + i, n - i, u);
    silu_mul_16(g, g, u);
    for (int64_t j = i; j < n; ++j) out[j] = g[j - i];
  }
}

void add(float* out, const float* in, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) V::store(out + i, V::add(V::load(out + i), V::load(in + i)));
  for (; i < n; ++i) out[i] += in[i];
}

void add_scaled(float* out, const float* in, float weight, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    V::store(out + i, V::fma(V::set1(weight), V::load(in + i), V::load(out + i)));
  for (; i < n; ++i) out[i] = std::fma(weight, in[i], out[i]);
}

void quantize_row(const float* x, int64_t cols, int8_t* codes, int64_t code_stride, float* scale,
                  int32_t* sums, int64_t stride) {
  for (int64_t u = 0; u < cols / kUnit; ++u, x += kUnit, codes += code_stride) {
    F half[2][kParts], top[kParts];
    QUERN_UNROLL for (int p = 0; p < kParts; ++p) {
      half[0][p] = V::load(x + p * kLanes);
      half[1][p] = V::load(x + 16 + p * kLanes);
      top[p] = V::max(V::abs(half[0][p]), V::abs(half[1][p]));
    }
    const float amax = V::reduce_max(top);
    // Below this 127 / amax would overflow; such a unit is all zeros.
    const bool tiny = !(amax > 1e-30f);
    scale[u * stride] = tiny ? 0.0f : amax / 127.0f;
    const F inverse = V::set1(tiny ? 0.0f : 127.0f / amax);
    QUERN_UNROLL for (int h = 0; h < 2; ++h) {
      QUERN_UNROLL for (int p = 0; p < kParts; ++p) half[h][p] = V::mul(half[h][p], inverse);
      sums[(2 * u + h) * stride] = V::store_codes(codes + 16 * h, half[h]);
    }
  }
}
