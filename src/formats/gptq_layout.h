// The words of GPTQ checkpoints (safetensors as AutoGPTQ and GPTQModel write them, `pack_dtype` int32). For a
// module of K inputs and N outputs in G groups of inputs:
//
//   qweight  [K · bits / 32, N]   codes, packed along K: each column is a stream of its own
//   qzeros   [G, N · bits / 32]   zero points, packed along N: each row is a stream
//   scales   [G, N]               f16 (also bf16, f32)
//   g_idx    [K]                  int32, the group of each input; negative ones count from the end
//
//   W[n, k] = scales[g, n] · (code[k, n] − zero[g, n]),  g = g_idx[k], or k / group_size where there is none
//
// A stream is little-endian in bits: value i lies at bits [i · bits, (i + 1) · bits) of its words taken
// together, lowest bits first. So words of 2, 4 and 8 bits hold 16, 8 and 4 values; of 3 bits, 32 values fill
// three words, and values 10 and 21 of them cross from one word to the next.
//
// Pure functions; words may lie unaligned in a mapped file, hence the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace quern::gptq {

/// How qzeros are stored.
enum class ZeroFormat : uint8_t {
  v1,  // `checkpoint_format` "gptq": one less than they are
  v2,  // "gptq_v2": as they are
};

constexpr bool known_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

/// Values that fill whole words: streams are multiples of it.
constexpr int64_t values_per_run(int bits) { return bits == 3 ? 32 : 32 / bits; }

/// Words of a stream of `values`; empty when they do not fill them.
constexpr std::optional<int64_t> stream_words(int64_t values, int bits) {
  if (values % values_per_run(bits) != 0) return std::nullopt;
  return values / values_per_run(bits) * (bits == 3 ? 3 : 1);
}

/// Writes values (each below 2^bits; a multiple of values_per_run) as a stream whose word j lies at
/// words[j · stride]. A column n of qweight: words + n, stride N; a row of qzeros: stride 1.
void pack_stream(int bits, std::span<const uint8_t> values, uint32_t* words, size_t stride);
/// The inverse; word j is the four bytes at words + 4 · j · stride.
void unpack_stream(int bits, const std::byte* words, size_t stride, std::span<uint8_t> values);

/// What is subtracted from words of 2, 4 and 8 bits to make v1 of v2: 1 in every field.
constexpr uint32_t ones_of_fields(int bits) {
  return bits == 2 ? 0x55555555u : bits == 4 ? 0x11111111u : 0x01010101u;
}

/// Turns whole rows of v2 zero points into v1 and back, in place; each the other's inverse. Zero points of 2,
/// 4 and 8 bits are converted a word at a time, as GPTQModel does it: `word ± ones_of_fields`, modulo 2^32,
/// so that a zero point of 0 borrows from the field above it (and one at its maximum in v1 carries into it).
/// Those of 3 bits are converted each on its own, modulo 8. `words` are whole streams.
void zeros_to_v1(int bits, std::span<uint32_t> words);
void zeros_from_v1(int bits, std::span<uint32_t> words);

/// The zero point of symmetric quantization: 2^(bits − 1).
constexpr int symmetric_zero(int bits) { return 1 << (bits - 1); }
/// Word j of a stream of symmetric zero points: 0x77777777 in v1 and 0x88888888 in v2 of 4 bits.
uint32_t symmetric_fill(int bits, ZeroFormat format, int64_t j);
/// The format in which all of these qzeros (rows of `row_words` words, one after another) are symmetric;
/// empty when they are so in neither.
std::optional<ZeroFormat> symmetric_format(int bits, std::span<const std::byte> words, int64_t row_words);

}  // namespace quern::gptq
