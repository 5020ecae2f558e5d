// The kernels, over the vector type V that the including file defines: included inside that file's target
// region and unnamed namespace. No standard header may be included from here on.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

using F = V::F;
constexpr int kLanes = V::kLanes;
constexpr int kParts = 16 / kLanes;  // registers of a logical vector of 16 lanes

#include "backend/cpu/kernels_elementwise.inc.h"
// In this order: attention uses what stands above it.
#include "backend/cpu/kernels_affine.inc.h"
#include "backend/cpu/kernels_attention.inc.h"
#include "backend/cpu/kernels_float.inc.h"

template <int64_t kPrefetch>
uint64_t read_with(const std::byte* data, int64_t bytes) {
  const float* p = reinterpret_cast<const float*>(data);
  F sum[16];
  for (F& s : sum) s = V::zero();
  for (int64_t i = 0; i < bytes / 4; i += 16 * kLanes) {
    if constexpr (kPrefetch > 0) __builtin_prefetch(data + 4 * i + kPrefetch);
    QUERN_UNROLL for (int j = 0; j < 16; ++j) sum[j] = V::max(sum[j], V::load(p + i + j * kLanes));
  }
  float all[16 * kLanes];
  for (int j = 0; j < 16; ++j) V::store(all + j * kLanes, sum[j]);
  uint64_t result = 0;
  for (float x : all) result += std::bit_cast<uint32_t>(x);
  return result;
}

uint64_t read_all(const std::byte* data, int64_t bytes, bool ahead) {
  return ahead ? read_with<8192>(data, bytes) : read_with<0>(data, bytes);
}

/// Code vectors in registers.
struct HeldCodes {
  const B* code;
  template <int J>
  QUERN_INLINE B at(int) const {
    return code[J];
  }
};

/// The widest panel's sums of eight code vectors, all from registers or L1.
int64_t int8_rounds(int64_t rounds) {
  constexpr int kCols = V::kMaxPanel, kSides = V::sides(kCols);
  alignas(64) uint8_t bytes[64];
  int8_t x[kCols * kUnit];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i & 15);
  for (int i = 0; i < kCols * kUnit; ++i) x[i] = static_cast<int8_t>(i % 127);
  B code[8];
  for (B& c : code) c = V::load_bytes(bytes);
  const int32_t one = 1;
  typename V::I acc[kSides][kCols];
  for (auto& side : acc)
    for (auto& a : side) a = V::broadcast(&one);
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : : "r"(x) : "memory");  // or the compiler would multiply once
    V::template dot<8, 15>(acc, HeldCodes{code}, x);
  }
  float lanes[kLanes];
  for (auto& side : acc)
    for (auto& a : side) {
      V::store(lanes, V::from_int(a));
      asm volatile("" : : "r"(lanes) : "memory");
    }
  return 2LL * 8 * 4 * kSides * kCols * kLanes;
}

constexpr Kernels make_table(std::string_view name) {
  return {.name = name,
          .max_panel = V::kMaxPanel,
          .code_bias8 = V::kBias8,
          .quantize_row = quantize_row,
          .affine_tile = affine_tile,
          .pack_tile = pack_tile,
          .pack_grouped = pack_grouped,
          .float_tile = float_tile,
          .rms_norm = rms_norm,
          .silu_mul = silu_mul,
          .add = add,
          .add_scaled = add_scaled,
          .attention = attention,
          .read_all = read_all,
          .int8_rounds = int8_rounds};
}
