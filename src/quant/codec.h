// What every format's folder shares: from functions over one block to the entries of QuantInfo.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "quant/fit.h"
#include "quant/quant.h"

namespace quern::codec {

/// Rounds to the nearest integer, ties to even; |x| < 2^22. Unlike nearbyint it needs no call, and compilers
/// vectorize it.
inline float round_even(float x) {
  constexpr float kShift = 0x1.8p23f;
  return (x + kShift) - kShift;
}

/// Nearest code in [lo, hi] to x / d, where `inverse` is 1/d or 0. The clamp comes first: a stored scale that
/// was rounded down may put x far out of range.
inline float code_of(float x, float inverse, float lo, float hi) {
  return round_even(std::clamp(x * inverse, lo, hi));
}

/// 1/d, or 0 where d is 0 or so small that 1/d overflows: then every code is the one that stands for zero.
inline float inverse_of(float d) {
  const float inverse = 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

/// To f16, but the largest finite value instead of infinity, which would turn zeros into NaN.
inline uint16_t f16_clamped(float x) { return f32_to_f16(std::clamp(x, -65504.0f, 65504.0f)); }

/// A scale to f16; f16's smallest where it would round to nothing, so that tiny weights keep what they can.
inline uint16_t f16_scale(float d) {
  const uint16_t rounded = f16_clamped(d);
  return (rounded & 0x7fff) == 0 && d != 0 ? static_cast<uint16_t>(rounded | 1) : rounded;
}

/// Codes of five bits: the low four as in Q4_0, bit 4 of code[j] in bit j of `high`.
inline void put_five_bits(const uint8_t* code, uint8_t (&low)[16], uint8_t (&high)[4]) {
  for (int j = 0; j < 16; ++j) low[j] = static_cast<uint8_t>((code[j] & 15) | (code[j + 16] & 15) << 4);
  for (int byte = 0; byte < 4; ++byte) {
    int bits = 0;
    for (int i = 0; i < 8; ++i) bits |= code[8 * byte + i] >> 4 << i;
    high[byte] = static_cast<uint8_t>(bits);
  }
}

template <class Block, size_t N, void (*decode_block)(const Block&, float*)>
void decode_blocks(const std::byte* blocks, float* out, size_t n) {
  for (size_t i = 0; i < n / N; ++i) {
    Block block;
    std::memcpy(&block, blocks + i * sizeof(Block), sizeof(Block));
    decode_block(block, out + i * N);
  }
}

template <class Block, void (*pack_block)(const AffineBlock&, Block&)>
void pack(const AffineBlock& in, std::byte* bytes) {
  Block block{};
  pack_block(in, block);
  std::memcpy(bytes, &block, sizeof(Block));
}

template <class Block, size_t N, AffineShape shape, void (*pack_block)(const AffineBlock&, Block&)>
void encode_blocks(const float* in, std::byte* blocks, size_t n, const float* importance) {
  for (size_t i = 0; i < n / N; ++i) {
    AffineBlock fitted;
    fit_block(shape, N, in + i * N, importance == nullptr ? nullptr : importance + i * N, fitted);
    pack<Block, pack_block>(fitted, blocks + i * sizeof(Block));
  }
}

/// out.code[32 · run + i] = code(run, i), for a block of 256. Within a run of 32 the shifts stay the same, so
/// that compilers vectorize it: a model is taken apart while it loads.
template <class Code>
void fill_codes(AffineBlock& out, Code code) {
  for (int run = 0; run < 8; ++run)
    for (int i = 0; i < 32; ++i) out.code[32 * run + i] = static_cast<uint8_t>(code(run, i));
}

template <class Block, void (*unpack_block)(const Block&, AffineBlock&)>
void unpack(const std::byte* bytes, AffineBlock& out) {
  Block block;
  std::memcpy(&block, bytes, sizeof(Block));
  unpack_block(block, out);
}

/// The entry of an affine format from its three functions over one block; pack_block gets a zeroed one.
template <class Block, size_t N, AffineShape shape, void (*decode_block)(const Block&, float*),
          void (*pack_block)(const AffineBlock&, Block&), void (*unpack_block)(const Block&, AffineBlock&)>
constexpr QuantInfo affine(DType dtype, std::string_view name, const BlockFields* fields = nullptr) {
  return {dtype,
          name,
          N,
          sizeof(Block),
          Family::affine,
          shape,
          decode_blocks<Block, N, decode_block>,
          encode_blocks<Block, N, shape, pack_block>,
          unpack<Block, unpack_block>,
          pack<Block, pack_block>,
          fields};
}

/// Fills the runs of a block of N from functions of the run's number.
template <size_t N, class Low, class High>
constexpr BlockFields with_runs(BlockFields fields, Low low, High high) {
  for (int run = 0; run < static_cast<int>(N) / 16; ++run) {
    fields.low[run] = low(run);
    fields.high[run] = high(run);
  }
  return fields;
}
template <size_t N, class Low>
constexpr BlockFields with_runs(BlockFields fields, Low low) {
  return with_runs<N>(fields, low, [](int) { return BlockFields::Run{}; });
}
constexpr BlockFields::Run run_at(size_t at, int shift = 0) {
  return {static_cast<uint16_t>(at), static_cast<uint8_t>(shift)};
}

/// out[word][r] of 16 blocks: `words` words of 4 bytes, little-endian.
template <int kWords>
void read_words(const std::byte* first, size_t stride, uint32_t (&out)[kWords][16]) {
  for (int r = 0; r < 16; ++r, first += stride)
    for (int w = 0; w < kWords; ++w) std::memcpy(&out[w][r], first + 4 * w, 4);
}

/// The unit scales (and minimums) of a format that has none.
inline void unit_scales(AffineBlock& out, bool has_min) {
  std::fill_n(out.scale, 16, int16_t{1});
  std::fill_n(out.min, 16, static_cast<uint8_t>(has_min ? 1 : 0));
}

}  // namespace quern::codec
