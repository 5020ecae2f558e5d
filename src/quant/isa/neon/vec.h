// NEON as every 64-bit Arm has it.

struct V {
  static constexpr int kLanes = 4;

  using F = float32x4_t;
  using M = uint32x4_t;

  static QUERN_INLINE F set1(float x) { return vdupq_n_f32(x); }
  static QUERN_INLINE F load(const float* p) { return vld1q_f32(p); }
  static QUERN_INLINE void store(float* p, F x) { vst1q_f32(p, x); }
  static QUERN_INLINE F load_f16(const std::byte* p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p))));
  }
  static QUERN_INLINE F load_bf16(const std::byte* p) {
    const uint16x4_t bits = vreinterpret_u16_u8(vld1_u8(reinterpret_cast<const uint8_t*>(p)));
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
  }
  static QUERN_INLINE void store_bytes(uint8_t* p, F x) {
    const uint16x4_t half = vmovn_u32(vcvtq_u32_f32(x));
    const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
    std::memcpy(p, &four, sizeof(four));
  }
  static QUERN_INLINE F add(F a, F b) { return vaddq_f32(a, b); }
  static QUERN_INLINE F sub(F a, F b) { return vsubq_f32(a, b); }
  static QUERN_INLINE F mul(F a, F b) { return vmulq_f32(a, b); }
  static QUERN_INLINE F div(F a, F b) { return vdivq_f32(a, b); }
  static QUERN_INLINE F sqrt(F a) { return vsqrtq_f32(a); }
  static QUERN_INLINE F abs(F a) { return vabsq_f32(a); }
  static QUERN_INLINE F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static QUERN_INLINE F fnma(F a, F b, F c) { return vfmsq_f32(c, a, b); }
  static QUERN_INLINE F min(F a, F b) { return select(less(a, b), a, b); }
  static QUERN_INLINE F max(F a, F b) { return select(less(b, a), a, b); }
  static QUERN_INLINE M less(F a, F b) { return vcltq_f32(a, b); }
  static QUERN_INLINE M less_equal(F a, F b) { return vcleq_f32(a, b); }
  static QUERN_INLINE M both(M a, M b) { return vandq_u32(a, b); }
  static QUERN_INLINE F select(M m, F yes, F no) { return vbslq_f32(m, yes, no); }
  static QUERN_INLINE void load_columns(const float* p, size_t stride, F (&out)[4]) {
    F z[4];
    for (size_t k = 0; k < 4; ++k) z[k] = vld1q_f32(p + k * stride);
    const F a = vtrn1q_f32(z[0], z[1]), b = vtrn2q_f32(z[0], z[1]);
    const F c = vtrn1q_f32(z[2], z[3]), d = vtrn2q_f32(z[2], z[3]);
    out[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    out[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    out[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    out[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
  }
};
