// Products of bytes with what AVX2 has: vpmaddubsw, sums of two in 16 bits.

struct V : Avx2 {
  static constexpr int kBias8 = 128;  // 8-bit codes are multiplied as signed bytes

  static QUERN_INLINE B flip(B b) { return _mm256_xor_si256(b, _mm256_set1_epi8(-128)); }

  /// vpmaddubsw sums two products into 16 bits: at most 2 · 127 · 127 for unsigned codes of up to 7 bits, and
  /// 2 · 128 · 127 for signed bytes, whose sign is moved to the activation. Where codes are short, several
  /// such sums fit before they are widened.
  template <int kCount, int kTop, int kSides, int kCols, typename Code>
  static QUERN_INLINE void dot(I (&acc)[kSides][kCols], const Code& code, const int8_t* x) {
    constexpr int kFit = kTop == 255 ? 1 : 32767 / (2 * 127 * kTop);
    constexpr int kSums = kFit > kCount ? kCount : kFit;
    static_assert(kCount % kSums == 0);
    const __m256i ones = _mm256_set1_epi16(1);
    for_each<kCount / kSums>([&](auto block) QUERN_INLINE_LAMBDA {
      // Up to two code vectors at once, by all columns; longer sums wait in `pairs`.
      constexpr int kStep = kSums < 2 ? 1 : 2;
      I pairs[kSides][kCols];
      for_each<kSums / kStep>([&](auto step) QUERN_INLINE_LAMBDA {
        constexpr int j = block * kSums + step * kStep;
        B four[kSides][2];
        QUERN_UNROLL for (int s = 0; s < kSides; ++s) {
          four[s][0] = code.template at<j>(s);
          if constexpr (kStep == 2) four[s][1] = code.template at<j + 1>(s);
        }
        QUERN_UNROLL for (int c = 0; c < kCols; ++c) {
          const __m256i v = broadcast_four(x + c * kUnit + 4 * j);
          QUERN_UNROLL for (int s = 0; s < kSides; ++s) {
            pairs[s][c] = step == 0 ? products<kTop>(four[s][0], v)
                                    : in_order(_mm256_add_epi16(pairs[s][c], products<kTop>(four[s][0], v)));
          }
          if constexpr (kStep == 2) {
            const __m256i w = broadcast_four(x + c * kUnit + 4 * (j + 1));
            QUERN_UNROLL for (int s = 0; s < kSides; ++s) pairs[s][c] =
                in_order(_mm256_add_epi16(pairs[s][c], products<kTop>(four[s][1], w)));
          }
          if constexpr (step == kSums / kStep - 1) {
            QUERN_UNROLL for (int s = 0; s < kSides; ++s) acc[s][c] =
                in_order(_mm256_add_epi32(acc[s][c], _mm256_madd_epi16(pairs[s][c], ones)));
          }
        }
      });
    });
  }
  static constexpr int kChains = 8;
  static QUERN_INLINE void burst(I (&sums)[kChains], B& code, B& x) {
    I pairs[kChains];
    for (I& pair : pairs) pair = _mm256_setzero_si256();
    QUERN_UNROLL for (int j = 0; j < 8; ++j) {
      QUERN_UNROLL for (I& pair : pairs) {
        asm volatile("" : "+x"(code), "+x"(x));
        pair = in_order(_mm256_add_epi16(pair, products<15>(code, x)));
      }
    }
    for (int c = 0; c < kChains; ++c)
      sums[c] = _mm256_add_epi32(sums[c], _mm256_madd_epi16(pairs[c], _mm256_set1_epi16(1)));
  }

 private:
  /// A sum that is to be made now: added up as a tree, as GCC would, all products wait in memory for each
  /// other.
  static QUERN_INLINE __m256i in_order(__m256i sum) {
    asm("" : "+x"(sum));
    return sum;
  }
  template <int kTop>
  static QUERN_INLINE __m256i products(__m256i code, __m256i x) {
    if constexpr (kTop == 255) return _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(x, code));
    return _mm256_maddubs_epi16(code, x);
  }
};
