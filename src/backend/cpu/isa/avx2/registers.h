// AVX2 with FMA and F16C: two registers are a logical vector. What is missing from it to be a V, the products
// of bytes, is in vec.h and vec_vnni.h.

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kMaxPanel = 4;
  static constexpr int kFloatRows = 2;
  static constexpr int kFloatCols = 2;
  static constexpr int kAttentionQueries = 6;
  /// Bytes from what a tile's products use to what they ask memory for. Zen 3 takes 0.86 to 0.97 of what
  /// plain reading does with one column and 1.5 KiB, 0.76 to 0.92 with 4 KiB, 0.71 to 0.86 with none.
  static constexpr int ahead(int columns) { return 1536; }
  /// How many parts of a tile's rows go side by side through its columns.
  static constexpr int sides(int columns) { return columns <= 4 ? 2 : 1; }

  using F = __m256;
  using I = __m256i;
  using B = __m256i;

  static QUERN_INLINE F zero() { return _mm256_setzero_ps(); }
  static QUERN_INLINE F set1(float x) { return _mm256_set1_ps(x); }
  static QUERN_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
  static QUERN_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static QUERN_INLINE F load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static QUERN_INLINE F load_bf16(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static QUERN_INLINE F load_i8(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static QUERN_INLINE F load_u8(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static QUERN_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static QUERN_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static QUERN_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static QUERN_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static QUERN_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static QUERN_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static QUERN_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  static QUERN_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  static QUERN_INLINE F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static QUERN_INLINE F zero_below(F x, F limit, F y) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), y);
  }
  static QUERN_INLINE F scale_by_bits(F y, F magic) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(y), _mm256_slli_epi32(_mm256_castps_si256(magic), 23)));
  }
  static QUERN_INLINE F from_int(I x) { return _mm256_cvtepi32_ps(x); }
  static QUERN_INLINE I broadcast(int32_t x) { return _mm256_set1_epi32(x); }
  static QUERN_INLINE int32_t store_codes(int8_t* p, const F (&x)[2]) {
    const __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
    const __m256i words = _mm256_permute4x64_epi64(mixed, 0xD8);  // packed lane by lane
    const __m128i codes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
    return sum_codes(codes);
  }
  static QUERN_INLINE float reduce_add(const F (&x)[2]) {
    const __m256 a = _mm256_add_ps(x[0], x[1]);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static QUERN_INLINE float reduce_max(const F (&x)[2]) {
    const __m256 a = _mm256_max_ps(x[0], x[1]);
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }

  static QUERN_INLINE B load_bytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static QUERN_INLINE void store_bytes(uint8_t* p, B b) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), b);
  }
  template <int kShift>
  static QUERN_INLINE B shift_and(B b, int mask) {
    // Bits that cross from the neighbouring byte are masked away.
    if constexpr (kShift > 0) b = _mm256_srli_epi16(b, kShift);
    if constexpr (kShift < 0) b = _mm256_slli_epi16(b, -kShift);
    return _mm256_and_si256(b, _mm256_set1_epi8(static_cast<char>(mask)));
  }
  static QUERN_INLINE B either(B a, B b) { return _mm256_or_si256(a, b); }
  static QUERN_INLINE B invert(B b, uint8_t bits) {
    return _mm256_xor_si256(b, _mm256_set1_epi8(static_cast<char>(bits)));
  }
  static QUERN_INLINE B shift_right_and(B b, int shift, int mask) {
    return _mm256_and_si256(_mm256_srl_epi16(b, _mm_cvtsi32_si128(shift)),
                            _mm256_set1_epi8(static_cast<char>(mask)));
  }
  static QUERN_INLINE B shift_words_right(B b, int shift) {
    return _mm256_srl_epi32(b, _mm_cvtsi32_si128(shift));
  }
  static QUERN_INLINE B shift_words_left(B b, int shift) {
    return _mm256_sll_epi32(b, _mm_cvtsi32_si128(shift));
  }
  static QUERN_INLINE B and_words(B b, uint32_t mask) {
    return _mm256_and_si256(b, _mm256_set1_epi32(static_cast<int>(mask)));
  }
  static QUERN_INLINE void load_words(const uint8_t* p, int64_t stride, B* out) {
    __m256i z[4];  // row r in 128-bit lane r / 4 of z[r % 4]: what remains is a transposition in each lane
    QUERN_UNROLL for (int k = 0; k < 4; ++k) z[k] = _mm256_inserti128_si256(
        _mm256_castsi128_si256(load_16(p + k * stride)), load_16(p + (k + 4) * stride), 1);
    const __m256i a = _mm256_unpacklo_epi32(z[0], z[1]), b = _mm256_unpacklo_epi32(z[2], z[3]);
    const __m256i c = _mm256_unpackhi_epi32(z[0], z[1]), d = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm256_unpacklo_epi64(a, b);
    out[1] = _mm256_unpackhi_epi64(a, b);
    out[2] = _mm256_unpacklo_epi64(c, d);
    out[3] = _mm256_unpackhi_epi64(c, d);
  }

 protected:
  static QUERN_INLINE int32_t sum_codes(__m128i codes) {
    const __m128i sums = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
  }
  static QUERN_INLINE __m128i load_16(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static QUERN_INLINE __m256i broadcast_four(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
  }
};
