// AVX-512 (F, BW, DQ, VL).

struct V {
  static constexpr int kLanes = 16;

  using F = __m512;
  using M = __mmask16;

  static QUERN_INLINE F set1(float x) { return _mm512_set1_ps(x); }
  static QUERN_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  static QUERN_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static QUERN_INLINE F load_f16(const std::byte* p) { return _mm512_cvtph_ps(load_32(p)); }
  static QUERN_INLINE F load_bf16(const std::byte* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_32(p)), 16));
  }
  static QUERN_INLINE void store_bytes(uint8_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
  }
  static QUERN_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static QUERN_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static QUERN_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static QUERN_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static QUERN_INLINE F sqrt(F a) { return _mm512_sqrt_ps(a); }
  static QUERN_INLINE F abs(F a) { return _mm512_abs_ps(a); }
  static QUERN_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static QUERN_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static QUERN_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  static QUERN_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  static QUERN_INLINE M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static QUERN_INLINE M less_equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static QUERN_INLINE M both(M a, M b) { return static_cast<M>(a & b); }
  static QUERN_INLINE F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
  static QUERN_INLINE void load_columns(const float* p, size_t stride, F (&out)[4]) {
    F z[4];  // lanes k, k + 4, … in the quarters of z[k]: what remains is a transposition in each quarter
    QUERN_UNROLL for (int k = 0; k < 4; ++k) {
      const float* row = p + static_cast<size_t>(k) * stride;
      z[k] = _mm512_castps128_ps512(_mm_loadu_ps(row));
      z[k] = _mm512_insertf32x4(z[k], _mm_loadu_ps(row + 4 * stride), 1);
      z[k] = _mm512_insertf32x4(z[k], _mm_loadu_ps(row + 8 * stride), 2);
      z[k] = _mm512_insertf32x4(z[k], _mm_loadu_ps(row + 12 * stride), 3);
    }
    const F a = _mm512_unpacklo_ps(z[0], z[1]), b = _mm512_unpacklo_ps(z[2], z[3]);
    const F c = _mm512_unpackhi_ps(z[0], z[1]), d = _mm512_unpackhi_ps(z[2], z[3]);
    out[0] = _mm512_shuffle_ps(a, b, 0x44);
    out[1] = _mm512_shuffle_ps(a, b, 0xee);
    out[2] = _mm512_shuffle_ps(c, d, 0x44);
    out[3] = _mm512_shuffle_ps(c, d, 0xee);
  }

 private:
  static QUERN_INLINE __m256i load_32(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
};
