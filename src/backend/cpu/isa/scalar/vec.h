// The vector type of the scalar reference: one lane. Sixteen of them make a logical vector, in order.

struct V {
  static constexpr int kLanes = 1;
  static constexpr int kMaxPanel = 4;
  static constexpr int kBias8 = 0;
  static constexpr int kFloatRows = 1;
  static constexpr int kFloatCols = 1;
  /// Queries that go through the cache together, by two registers of it.
  static constexpr int kAttentionQueries = 4;
  /// Bytes from what a tile's products use to what they ask memory for.
  static constexpr int ahead(int columns) { return 4096; }
  /// How many parts of a tile's rows go side by side through its columns.
  static constexpr int sides(int columns) { return 1; }

  using F = float;
  using I = int32_t;
  struct B {
    uint8_t k[4];
  };

  static QUERN_INLINE F zero() { return 0; }
  static QUERN_INLINE F set1(float x) { return x; }
  static QUERN_INLINE F load(const float* p) { return *p; }
  static QUERN_INLINE void store(float* p, F x) { *p = x; }
  static QUERN_INLINE F load_f16(const uint16_t* p) { return f16_to_f32(*p); }
  static QUERN_INLINE F load_bf16(const uint16_t* p) { return bf16_to_f32(*p); }
  static QUERN_INLINE F load_i8(const int8_t* p) { return static_cast<float>(*p); }
  static QUERN_INLINE F load_u8(const uint8_t* p) { return static_cast<float>(*p); }
  static QUERN_INLINE F add(F a, F b) { return a + b; }
  static QUERN_INLINE F sub(F a, F b) { return a - b; }
  static QUERN_INLINE F mul(F a, F b) { return a * b; }
  static QUERN_INLINE F div(F a, F b) { return a / b; }
  static QUERN_INLINE F fma(F a, F b, F c) { return std::fma(a, b, c); }
  static QUERN_INLINE F fnma(F a, F b, F c) { return std::fma(-a, b, c); }
  static QUERN_INLINE F max(F a, F b) { return a > b ? a : b; }
  static QUERN_INLINE F min(F a, F b) { return a < b ? a : b; }
  static QUERN_INLINE F abs(F a) { return std::fabs(a); }
  static QUERN_INLINE F zero_below(F x, F limit, F y) { return x < limit ? 0.0f : y; }
  /// y · 2^n where the low bits of `magic` hold n.
  static QUERN_INLINE F scale_by_bits(F y, F magic) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(y) + (std::bit_cast<uint32_t>(magic) << 23));
  }
  static QUERN_INLINE F from_int(I x) { return static_cast<float>(x); }
  static QUERN_INLINE I broadcast(int32_t x) { return x; }
  /// Rounds to nearest even (|x| ≤ 127) and stores bytes; returns their sum.
  static QUERN_INLINE int32_t store_codes(int8_t* p, const F (&x)[16]) {
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) {
      p[i] = static_cast<int8_t>(std::bit_cast<int32_t>(x[i] + 12582912.0f) - 0x4B400000);
      sum += p[i];
    }
    return sum;
  }
  static QUERN_INLINE float reduce_add(const F (&x)[16]) {
    float y[8];
    for (int i = 0; i < 8; ++i) y[i] = x[i] + x[i + 8];
    for (int i = 0; i < 4; ++i) y[i] += y[i + 4];
    for (int i = 0; i < 2; ++i) y[i] += y[i + 2];
    return y[0] + y[1];
  }
  static QUERN_INLINE float reduce_max(const F (&x)[16]) {
    float y = x[0];
    for (int i = 1; i < 16; ++i) y = max(y, x[i]);
    return y;
  }

  static QUERN_INLINE B load_bytes(const uint8_t* p) {
    B b;
    std::memcpy(b.k, p, 4);
    return b;
  }
  static QUERN_INLINE void store_bytes(uint8_t* p, B b) { std::memcpy(p, b.k, 4); }
  /// (b >> shift) & mask in every byte; a negative shift goes left.
  template <int kShift>
  static QUERN_INLINE B shift_and(B b, int mask) {
    for (uint8_t& x : b.k)
      x = static_cast<uint8_t>((kShift >= 0 ? x >> (kShift & 7) : x << (-kShift & 7)) & mask);
    return b;
  }
  static QUERN_INLINE B either(B a, B b) {
    for (int i = 0; i < 4; ++i) a.k[i] |= b.k[i];
    return a;
  }
  static QUERN_INLINE B invert(B b, uint8_t bits) {
    for (uint8_t& x : b.k) x = static_cast<uint8_t>(x ^ bits);
    return b;
  }
  /// (b >> shift) & mask in every byte, 0 ≤ shift < 8, no bit of mask above 255 >> shift.
  static QUERN_INLINE B shift_right_and(B b, int shift, int mask) {
    for (uint8_t& x : b.k) x = static_cast<uint8_t>(x >> shift & mask);
    return b;
  }
  /// Of the 32 bits of every lane, 0 ≤ shift < 32.
  static QUERN_INLINE B shift_words_right(B b, int shift) { return of_word(word(b) >> shift); }
  static QUERN_INLINE B shift_words_left(B b, int shift) { return of_word(word(b) << shift); }
  static QUERN_INLINE B and_words(B b, uint32_t mask) { return of_word(word(b) & mask); }
  /// 16 bytes of kLanes rows that lie `stride` bytes apart, word by word: out[i] takes each row's bytes
  /// [4i, 4i + 4), rows side by side.
  static QUERN_INLINE void load_words(const uint8_t* p, int64_t, B* out) {
    for (int i = 0; i < 4; ++i) out[i] = load_bytes(p + 4 * i);
  }
  static QUERN_INLINE B flip(B b) { return b; }
  /// acc[s][c] += Σ_j Σ_i code.at<j>(s).k[i] · x[32c + 4j + i]: kCount code vectors, of numbers up to kTop
  /// (255: any, unsigned, or flipped to signed: kBias8), for each side, by kCols columns.
  template <int kCount, int kTop, int kSides, int kCols, typename Code>
  static QUERN_INLINE void dot(I (&acc)[kSides][kCols], const Code& code, const int8_t* x) {
    for_each<kCount>([&](auto j) {
      for (int s = 0; s < kSides; ++s) {
        const B four = code.template at<j>(s);
        for (int c = 0; c < kCols; ++c)
          for (int i = 0; i < 4; ++i) acc[s][c] += four.k[i] * x[c * kUnit + 4 * j + i];
      }
    });
  }
  /// Chains of sums that keep all multipliers busy, whatever a product's latency.
  static constexpr int kChains = 4;
  /// Eight products of `code` by `x` for each of the chains, as `dot` makes them where codes have 4 bits;
  /// `code` and `x` are made unknown before each, or one product would do for all.
  static QUERN_INLINE void burst(I (&sums)[kChains], B& code, B& x) {
    for (int j = 0; j < 8; ++j)
      for (I& sum : sums) {
        asm volatile("" : "+m"(code), "+m"(x));
        for (int i = 0; i < 4; ++i) sum += code.k[i] * static_cast<int8_t>(x.k[i]);
      }
  }

 private:
  static QUERN_INLINE uint32_t word(B b) { return std::bit_cast<uint32_t>(b); }
  static QUERN_INLINE B of_word(uint32_t x) { return std::bit_cast<B>(x); }
};
