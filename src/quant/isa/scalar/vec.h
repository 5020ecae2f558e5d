// One lane. Every vec.h has these operations; comparisons with NaN are false, and min and max are the ternary
// expressions that stand here, on every ISA.

struct V {
  static constexpr int kLanes = 1;

  using F = float;
  using M = bool;

  static QUERN_INLINE F set1(float x) { return x; }
  static QUERN_INLINE F load(const float* p) { return *p; }
  static QUERN_INLINE void store(float* p, F x) { *p = x; }
  static QUERN_INLINE F load_f16(const std::byte* p) { return f16_to_f32(half_at(p)); }
  static QUERN_INLINE F load_bf16(const std::byte* p) { return bf16_to_f32(half_at(p)); }
  /// Whole numbers in [0, 255].
  static QUERN_INLINE void store_bytes(uint8_t* p, F x) { *p = static_cast<uint8_t>(x); }
  static QUERN_INLINE F add(F a, F b) { return a + b; }
  static QUERN_INLINE F sub(F a, F b) { return a - b; }
  static QUERN_INLINE F mul(F a, F b) { return a * b; }
  static QUERN_INLINE F div(F a, F b) { return a / b; }
  static QUERN_INLINE F sqrt(F a) { return std::sqrt(a); }
  static QUERN_INLINE F abs(F a) { return std::fabs(a); }
  static QUERN_INLINE F fma(F a, F b, F c) { return std::fma(a, b, c); }    // a · b + c, rounded once
  static QUERN_INLINE F fnma(F a, F b, F c) { return std::fma(-a, b, c); }  // c − a · b
  static QUERN_INLINE F min(F a, F b) { return a < b ? a : b; }
  static QUERN_INLINE F max(F a, F b) { return a > b ? a : b; }
  static QUERN_INLINE M less(F a, F b) { return a < b; }
  static QUERN_INLINE M less_equal(F a, F b) { return a <= b; }
  static QUERN_INLINE M both(M a, M b) { return a && b; }
  static QUERN_INLINE F select(M m, F yes, F no) { return m ? yes : no; }
  /// out[k] = p[k], p[stride + k], … a lane each, for k in [0, 4).
  static QUERN_INLINE void load_columns(const float* p, size_t, F (&out)[4]) {
    for (int k = 0; k < 4; ++k) out[k] = p[k];
  }

 private:
  static QUERN_INLINE uint16_t half_at(const std::byte* p) {
    uint16_t bits;
    std::memcpy(&bits, p, sizeof(bits));
    return bits;
  }
};
