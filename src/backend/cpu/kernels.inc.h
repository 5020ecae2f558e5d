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

/// Products from registers alone: what the multipliers do at most.
int64_t int8_rounds(int64_t rounds) {
  uint8_t bytes[64];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(i & 15);
  asm volatile("" : : "r"(bytes) : "memory");
  B code = V::load_bytes(bytes), x = code;
  typename V::I sums[V::kChains];
  for (auto& sum : sums) sum = V::broadcast(1);
  for (int64_t r = 0; r < rounds; ++r) V::burst(sums, code, x);
  float lanes[kLanes];
  for (auto& sum : sums) {
    V::store(lanes, V::from_int(sum));
    asm volatile("" : : "r"(lanes) : "memory");
  }
  return 2LL * 8 * 4 * V::kChains * kLanes;
}

constexpr Kernels make_table(std::string_view name) {
  return {.name = name,
          .max_panel = V::kMaxPanel,
          .code_bias8 = V::kBias8,
          .quantize_row = quantize_row,
          .affine_tiles = affine_tiles,
          .pack_tile = pack_tile,
          .pack_grouped = pack_grouped,
          .float_tile = float_tile,
          .rms_norm = rms_norm,
          .silu_mul = silu_mul,
          .add = add,
          .add_scaled = add_scaled,
          .attention = attention,
          .merge_attention = merge_attention,
          .read_all = read_all,
          .int8_rounds = int8_rounds};
}
