// AVX2 with FMA and F16C.

struct V {
  static constexpr int kLanes = 8;

  using F = __m256;
  using M = __m256;

  static QUERN_INLINE F set1(float x) { return _mm256_set1_ps(x); }
  static QUERN_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  static QUERN_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static QUERN_INLINE F load_f16(const std::byte* p) { return _mm256_cvtph_ps(load_16(p)); }
  static QUERN_INLINE F load_bf16(const std::byte* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(p)), 16));
  }
  static QUERN_INLINE void store_bytes(uint8_t* p, F x) {
    const __m256i wide = _mm256_cvtps_epi32(x);
    const __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(half, half));
  }
  static QUERN_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static QUERN_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static QUERN_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static QUERN_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static QUERN_INLINE F sqrt(F a) { return _mm256_sqrt_ps(a); }
  static QUERN_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static QUERN_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static QUERN_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static QUERN_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  static QUERN_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  static QUERN_INLINE M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static QUERN_INLINE M less_equal(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static QUERN_INLINE M both(M a, M b) { return _mm256_and_ps(a, b); }
  static QUERN_INLINE F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
  static QUERN_INLINE void load_columns(const float* p, size_t stride, F (&out)[4]) {
    F z[4];  // lanes k and k + 4 in the halves of z[k]: what remains is a transposition in each half
    QUERN_UNROLL for (int k = 0; k < 4; ++k) {
      const float* row = p + static_cast<size_t>(k) * stride;
      z[k] =
          _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row)), _mm_loadu_ps(row + 4 * stride), 1);
    }
    const F a = _mm256_unpacklo_ps(z[0], z[1]), b = _mm256_unpacklo_ps(z[2], z[3]);
    const F c = _mm256_unpackhi_ps(z[0], z[1]), d = _mm256_unpackhi_ps(z[2], z[3]);
    out[0] = _mm256_shuffle_ps(a, b, 0x44);
    out[1] = _mm256_shuffle_ps(a, b, 0xee);
    out[2] = _mm256_shuffle_ps(c, d, 0x44);
    out[3] = _mm256_shuffle_ps(c, d, 0xee);
  }

 private:
  static QUERN_INLINE __m128i load_16(const std::byte* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
};
