// AVX-512 (F, BW, DQ, VL) with VNNI: one register is a logical vector.

struct V {
  static constexpr int kLanes = 16;
  static constexpr int kMaxPanel = 8;
  static constexpr int kBias8 = 0;  // vpdpbusd takes unsigned codes
  static constexpr int kFloatRows = 4;
  static constexpr int kFloatCols = 4;
  static constexpr int kAttentionQueries = 8;
  /// Bytes from what a tile's products use to what they ask memory for; 0: for nothing. With few columns the
  /// processor's own prefetches do better (Zen 4, where memory is fast: 0.9 of plain reading instead of
  /// 0.75); with many they stay behind, and memory and products take turns (8 columns: 15 GB/s instead of
  /// 21).
  static constexpr int ahead(int columns) { return columns > 2 ? 4096 : 0; }
  /// How many parts of a tile's rows go side by side through its columns.
  static constexpr int sides(int columns) { return 1; }

  using F = __m512;
  using I = __m512i;
  using B = __m512i;

  static QUERN_INLINE F zero() { return _mm512_setzero_ps(); }
  static QUERN_INLINE F set1(float x) { return _mm512_set1_ps(x); }
  static QUERN_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
  static QUERN_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static QUERN_INLINE F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static QUERN_INLINE F load_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static QUERN_INLINE F load_i8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static QUERN_INLINE F load_u8(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static QUERN_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static QUERN_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static QUERN_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static QUERN_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static QUERN_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static QUERN_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static QUERN_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  static QUERN_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  static QUERN_INLINE F abs(F a) { return _mm512_abs_ps(a); }
  static QUERN_INLINE F zero_below(F x, F limit, F y) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
  }
  static QUERN_INLINE F scale_by_bits(F y, F magic) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(y), _mm512_slli_epi32(_mm512_castps_si512(magic), 23)));
  }
  static QUERN_INLINE F from_int(I x) { return _mm512_cvtepi32_ps(x); }
  static QUERN_INLINE I broadcast(int32_t x) { return _mm512_set1_epi32(x); }
  static QUERN_INLINE int32_t store_codes(int8_t* p, const F (&x)[1]) {
    const __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x[0]));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), codes);
    return sum_codes(codes);
  }
  static QUERN_INLINE float reduce_add(const F (&x)[1]) {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x[0]), _mm512_extractf32x8_ps(x[0], 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static QUERN_INLINE float reduce_max(const F (&x)[1]) { return _mm512_reduce_max_ps(x[0]); }

  static QUERN_INLINE B load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static QUERN_INLINE void store_bytes(uint8_t* p, B b) { _mm512_storeu_si512(p, b); }
  template <int kShift>
  static QUERN_INLINE B shift_and(B b, int mask) {
    // Bits that cross from the neighbouring byte are masked away.
    if constexpr (kShift > 0) b = _mm512_srli_epi16(b, kShift);
    if constexpr (kShift < 0) b = _mm512_slli_epi16(b, -kShift);
    return _mm512_and_si512(b, _mm512_set1_epi8(static_cast<char>(mask)));
  }
  static QUERN_INLINE B either(B a, B b) { return _mm512_or_si512(a, b); }
  static QUERN_INLINE B invert(B b, uint8_t bits) {
    return _mm512_xor_si512(b, _mm512_set1_epi8(static_cast<char>(bits)));
  }
  static QUERN_INLINE B shift_right_and(B b, int shift, int mask) {
    return _mm512_and_si512(_mm512_srl_epi16(b, _mm_cvtsi32_si128(shift)),
                            _mm512_set1_epi8(static_cast<char>(mask)));
  }
  static QUERN_INLINE B shift_words_right(B b, int shift) {
    return _mm512_srl_epi32(b, _mm_cvtsi32_si128(shift));
  }
  static QUERN_INLINE B shift_words_left(B b, int shift) {
    return _mm512_sll_epi32(b, _mm_cvtsi32_si128(shift));
  }
  static QUERN_INLINE B and_words(B b, uint32_t mask) {
    return _mm512_and_si512(b, _mm512_set1_epi32(static_cast<int>(mask)));
  }
  static QUERN_INLINE void load_words(const uint8_t* p, int64_t stride, B* out) {
    __m512i z[4];  // row r in 128-bit lane r / 4 of z[r % 4]: what remains is a transposition in each lane
    QUERN_UNROLL for (int k = 0; k < 4; ++k) {
      const uint8_t* row = p + k * stride;
      z[k] = _mm512_castsi128_si512(load_16(row));
      z[k] = _mm512_inserti32x4(z[k], load_16(row + 4 * stride), 1);
      z[k] = _mm512_inserti32x4(z[k], load_16(row + 8 * stride), 2);
      z[k] = _mm512_inserti32x4(z[k], load_16(row + 12 * stride), 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpacklo_epi32(z[2], z[3]);
    const __m512i c = _mm512_unpackhi_epi32(z[0], z[1]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm512_unpacklo_epi64(a, b);
    out[1] = _mm512_unpackhi_epi64(a, b);
    out[2] = _mm512_unpacklo_epi64(c, d);
    out[3] = _mm512_unpackhi_epi64(c, d);
  }
  static QUERN_INLINE B flip(B b) { return b; }
  template <int kCount, int kTop, int kSides, int kCols, typename Code>
  static QUERN_INLINE void dot(I (&acc)[kSides][kCols], const Code& code, const int8_t* x) {
    static_assert(kSides == 1);
    // A single column's sum would wait for itself, so it is made of two.
    constexpr bool kSplit = kCols == 1 && kCount >= 4;
    I other = _mm512_setzero_si512();
    for_each<kCount>([&](auto j) QUERN_INLINE_LAMBDA {
      const B four = code.template at<j>(0);
      QUERN_UNROLL for (int c = 0; c < kCols; ++c) {
        I& sum = kSplit && j % 2 == 1 ? other : acc[0][c];
        sum = _mm512_dpbusd_epi32(sum, four, broadcast_four(x + c * kUnit + 4 * j));
      }
    });
    if constexpr (kSplit) acc[0][0] = _mm512_add_epi32(acc[0][0], other);
  }
  static constexpr int kChains = 16;
  static QUERN_INLINE void burst(I (&sums)[kChains], B& code, B& x) {
    QUERN_UNROLL for (int j = 0; j < 8; ++j) {
      QUERN_UNROLL for (I& sum : sums) {
        asm volatile("" : "+v"(code), "+v"(x));
        sum = _mm512_dpbusd_epi32(sum, code, x);
      }
    }
  }

 private:
  static QUERN_INLINE int32_t sum_codes(__m128i codes) {
    const __m128i sums = _mm_sad_epu8(_mm_xor_si128(codes, _mm_set1_epi8(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
  }
  static QUERN_INLINE __m128i load_16(const uint8_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  static QUERN_INLINE __m512i broadcast_four(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
  }
};
