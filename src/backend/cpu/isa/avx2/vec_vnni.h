// Products of bytes by vpdpbusd: four of unsigned codes and signed activations go into 32 bits at once. The
// including file defines `dpbusd`.

struct V : Avx2 {
  static constexpr int kBias8 = 0;  // codes are unsigned as they are

  static QUERN_INLINE B flip(B b) { return b; }

  template <int kCount, int kTop, int kSides, int kCols, typename Code>
  static QUERN_INLINE void dot(I (&acc)[kSides][kCols], const Code& code, const int8_t* x) {
    // A single column's sums would wait for themselves, so each is made of two.
    constexpr bool kSplit = kCols == 1 && kCount >= 4;
    I other[kSides];
    QUERN_UNROLL for (int s = 0; s < kSides; ++s) other[s] = _mm256_setzero_si256();
    for_each<kCount>([&](auto j) QUERN_INLINE_LAMBDA {
      B four[kSides];
      QUERN_UNROLL for (int s = 0; s < kSides; ++s) four[s] = code.template at<j>(s);
      QUERN_UNROLL for (int c = 0; c < kCols; ++c) {
        const B v = broadcast_four(x + c * kUnit + 4 * j);
        QUERN_UNROLL for (int s = 0; s < kSides; ++s) {
          I& sum = kSplit && j % 2 == 1 ? other[s] : acc[s][c];
          sum = dpbusd(sum, four[s], v);
        }
      }
    });
    if constexpr (kSplit)
      QUERN_UNROLL for (int s = 0; s < kSides; ++s) acc[s][0] = _mm256_add_epi32(acc[s][0], other[s]);
  }
  static constexpr int kChains = 12;
  static QUERN_INLINE void burst(I (&sums)[kChains], B& code, B& x) {
    QUERN_UNROLL for (int j = 0; j < 8; ++j) {
      QUERN_UNROLL for (I& sum : sums) {
        asm volatile("" : "+x"(code), "+x"(x));
        sum = dpbusd(sum, code, x);
      }
    }
  }
};
