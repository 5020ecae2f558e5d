// NEON: four registers are a logical vector. QUERN_NEON_DOTPROD says whether the region has sdot.

struct V {
  static constexpr int kLanes = 4;
  static constexpr int kMaxPanel = 8;
  static constexpr int kBias8 = 128;  // all products are of signed bytes
  static constexpr int kFloatRows = 2;
  static constexpr int kFloatCols = 2;
  static constexpr int kAttentionQueries = 8;
  /// Bytes from what a tile's products use to what they ask memory for.
  static constexpr int ahead(int columns) { return 4096; }
  /// How many parts of a tile's rows go side by side through its columns.
  static constexpr int sides(int columns) { return columns == 1 ? 4 : 1; }

  using F = float32x4_t;
  using I = int32x4_t;
  using B = uint8x16_t;

  static QUERN_INLINE F zero() { return vdupq_n_f32(0); }
  static QUERN_INLINE F set1(float x) { return vdupq_n_f32(x); }
  static QUERN_INLINE F load(const float* p) { return vld1q_f32(p); }
  static QUERN_INLINE void store(float* p, F x) { vst1q_f32(p, x); }
  static QUERN_INLINE F load_f16(const uint16_t* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
  }
  static QUERN_INLINE F load_bf16(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
  static QUERN_INLINE F load_i8(const int8_t* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
  }
  static QUERN_INLINE F load_u8(const uint8_t* p) {
    uint32_t four;
    std::memcpy(&four, p, 4);
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))));
  }
  static QUERN_INLINE F add(F a, F b) { return vaddq_f32(a, b); }
  static QUERN_INLINE F sub(F a, F b) { return vsubq_f32(a, b); }
  static QUERN_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
  static QUERN_INLINE F div(F a, F b) { return vdivq_f32(a, b); }
  static QUERN_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static QUERN_INLINE F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
  static QUERN_INLINE F max(F a, F b) { return vmaxq_f32(a, b); }
  static QUERN_INLINE F min(F a, F b) { return vminq_f32(a, b); }
  static QUERN_INLINE F abs(F a) { return vabsq_f32(a); }
  static QUERN_INLINE F zero_below(F x, F limit, F y) {
    return vbslq_f32(vcltq_f32(x, limit), vdupq_n_f32(0), y);
  }
  static QUERN_INLINE F scale_by_bits(F y, F magic) {
    return vreinterpretq_f32_u32(
        vaddq_u32(vreinterpretq_u32_f32(y), vshlq_n_u32(vreinterpretq_u32_f32(magic), 23)));
  }
  static QUERN_INLINE F from_int(I x) { return vcvtq_f32_s32(x); }
  static QUERN_INLINE I broadcast(int32_t x) { return vdupq_n_s32(x); }
  static QUERN_INLINE int32_t store_codes(int8_t* p, const F (&x)[4]) {
    int16x8_t words[2];
    for (int i = 0; i < 2; ++i)
      words[i] = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x[2 * i])), vqmovn_s32(vcvtnq_s32_f32(x[2 * i + 1])));
    const int8x16_t codes = vcombine_s8(vqmovn_s16(words[0]), vqmovn_s16(words[1]));
    vst1q_s8(p, codes);
    return vaddlvq_s8(codes);
  }
  static QUERN_INLINE float reduce_add(const F (&x)[4]) {
    const F a = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
    const float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
  }
  static QUERN_INLINE float reduce_max(const F (&x)[4]) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x[0], x[1]), vmaxq_f32(x[2], x[3])));
  }

  static QUERN_INLINE B load_bytes(const uint8_t* p) { return vld1q_u8(p); }
  static QUERN_INLINE void store_bytes(uint8_t* p, B b) { vst1q_u8(p, b); }
  template <int kShift>
  static QUERN_INLINE B shift_and(B b, int mask) {
    if constexpr (kShift > 0) b = vshrq_n_u8(b, kShift);
    if constexpr (kShift < 0) b = vshlq_n_u8(b, -kShift);
    return vandq_u8(b, vdupq_n_u8(static_cast<uint8_t>(mask)));
  }
  static QUERN_INLINE B either(B a, B b) { return vorrq_u8(a, b); }
  static QUERN_INLINE B invert(B b, uint8_t bits) { return veorq_u8(b, vdupq_n_u8(bits)); }
  static QUERN_INLINE B shift_right_and(B b, int shift, int mask) {
    const int8x16_t left = vdupq_n_s8(static_cast<int8_t>(-shift));
    return vandq_u8(vshlq_u8(b, left), vdupq_n_u8(static_cast<uint8_t>(mask)));
  }
  static QUERN_INLINE B shift_words_right(B b, int shift) {
    return vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(b), vdupq_n_s32(-shift)));
  }
  static QUERN_INLINE B shift_words_left(B b, int shift) {
    return vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(b), vdupq_n_s32(shift)));
  }
  static QUERN_INLINE B and_words(B b, uint32_t mask) {
    return vreinterpretq_u8_u32(vandq_u32(vreinterpretq_u32_u8(b), vdupq_n_u32(mask)));
  }
  static QUERN_INLINE void load_words(const uint8_t* p, int64_t stride, B* out) {
    uint32x4_t z[4];
    for (int k = 0; k < 4; ++k) z[k] = vreinterpretq_u32_u8(vld1q_u8(p + k * stride));
    const uint64x2_t a = vreinterpretq_u64_u32(vzip1q_u32(z[0], z[1]));
    const uint64x2_t b = vreinterpretq_u64_u32(vzip1q_u32(z[2], z[3]));
    const uint64x2_t c = vreinterpretq_u64_u32(vzip2q_u32(z[0], z[1]));
    const uint64x2_t d = vreinterpretq_u64_u32(vzip2q_u32(z[2], z[3]));
    out[0] = vreinterpretq_u8_u64(vzip1q_u64(a, b));
    out[1] = vreinterpretq_u8_u64(vzip2q_u64(a, b));
    out[2] = vreinterpretq_u8_u64(vzip1q_u64(c, d));
    out[3] = vreinterpretq_u8_u64(vzip2q_u64(c, d));
  }
  static QUERN_INLINE B flip(B b) { return veorq_u8(b, vdupq_n_u8(128)); }

  template <int kCount, int kTop, int kSides, int kCols, typename Code>
  static QUERN_INLINE void dot(I (&acc)[kSides][kCols], const Code& code, const int8_t* x) {
    for_each<kCount / 4>([&](auto block) QUERN_INLINE_LAMBDA {
      int8x16_t k[kSides][4];
      QUERN_UNROLL for (int s = 0; s < kSides; ++s) for_each<4>([&](auto i) QUERN_INLINE_LAMBDA {
        k[s][i] = vreinterpretq_s8_u8(code.template at<4 * block + i>(s));
      });
      QUERN_UNROLL for (int c = 0; c < kCols; ++c) {
        const int8x16_t v = vld1q_s8(x + c * kUnit + 16 * block);
        QUERN_UNROLL for (int s = 0; s < kSides; ++s) for_each<4>(
            [&](auto i) QUERN_INLINE_LAMBDA { acc[s][c] = add_products<i>(acc[s][c], k[s][i], v); });
      }
    });
  }
  static constexpr int kChains = 16;
  static QUERN_INLINE void burst(I (&sums)[kChains], B& code, B& x) {
    QUERN_UNROLL for (int j = 0; j < 8; ++j) {
      QUERN_UNROLL for (I& sum : sums) {
        asm volatile("" : "+w"(code), "+w"(x));
        sum = add_products<0>(sum, vreinterpretq_s8_u8(code), vreinterpretq_s8_u8(x));
      }
    }
  }

 private:
  /// Each 32-bit lane of acc takes the four products of its bytes of `code` and word kWord of x.
  template <int kWord>
  static QUERN_INLINE I add_products(I acc, int8x16_t code, int8x16_t x) {
#if QUERN_NEON_DOTPROD
    return vdotq_laneq_s32(acc, code, x, kWord);
#else
    const int8x16_t v = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), kWord));
    const int16x8_t low = vmull_s8(vget_low_s8(code), vget_low_s8(v));
    const int16x8_t high = vmull_high_s8(code, v);
    return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
  }
};
