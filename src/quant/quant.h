// Quantization formats: what a format is, and the table of all of them.
//
// Every format lives in its own folder here (q4_0/ …) and defines one `const QuantInfo quant_info_<folder>`;
// CMake lists the folders. A backend does not know formats by name: it implements each Family once, from
// what AffineShape and AffineBlock say, and may add a fast path for a format where that pays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/dtype.h"
#include "core/result.h"
#include "core/tensor.h"

namespace quern {

enum class Family : uint8_t {
  floating,  // elements are floats of some width
  affine,    // groups of integer codes with a scale and, in some formats, a minimum
};

/// w[k] = d · scale[g] · (code[k] − zero) − dmin · min[g],  g = k / group, within one block.
/// Legacy formats have scale = 1 (and min = 1); the k-quants have 4-, 6- or 8-bit scales and minimums.
struct AffineShape {
  int bits = 0;             // code ∈ [0, 2^bits)
  int group = 0;            // weights that share scale[g] and min[g]: 16, 32 or the block
  int zero = 0;             // subtracted from every code
  bool has_min = false;     // dmin and min[g] are used
  bool has_scales = false;  // scale[g] (and min[g]) vary inside a block; otherwise they are 1
  bool wide_d = false;      // d needs f32; otherwise d and dmin are f16 values exactly
  int scale_limit = 0;  // has_scales: scale[g] and min[g] in [0, limit], or, without minimums, scale[g] in
                        // [−limit, limit)
};

/// One block, taken apart exactly: nothing is rounded.
struct AffineBlock {
  float d = 0;
  float dmin = 0;
  int16_t scale[16];  // signed: Q6_K's are int8, Q3_K's are −32…31
  uint8_t min[16];
  uint8_t code[256];
};

/// Where an affine format's block keeps its parts, so that many rows can be taken apart at once (16 at a
/// time, a vector lane each) with the same result as `unpack`. Only for blocks of 32 or 256.
///
/// Codes come in runs of 16; one run lies in 16 consecutive bytes, code i in bits `shift` and up of byte i.
/// Longer codes are cut in two: 6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1 bits, the lower ones in `low`.
struct BlockFields {
  struct Run {
    uint16_t at = 0;  // first byte
    uint8_t shift = 0;
  };
  int d = 0;                  // first byte of d: f16, or f32 when wide_d
  int dmin = -1;              // likewise; −1: none
  bool negative_min = false;  // the block holds −dmin
  uint8_t flip = 0;           // bits inverted in every code
  Run low[16] = {}, high[16] = {};
  /// scale[g][r] (and min[g][r]) of 16 blocks that lie `stride` bytes apart; null when scales do not vary.
  void (*scales)(const std::byte* blocks, size_t stride, int8_t (*scale)[16], uint8_t (*min)[16]) = nullptr;
};

struct QuantInfo {
  DType dtype;
  std::string_view name;  // as GGUF tools write it: "Q4_K"
  uint32_t block;         // weights in a block; a row is a whole number of blocks
  uint32_t bytes;         // bytes of a block
  Family family;
  AffineShape affine;  // for Family::affine

  /// Scalar reference. `n` is a multiple of `block`; `blocks` need not be aligned.
  void (*decode)(const std::byte* blocks, float* out, size_t n);
  /// Scalar reference encoder (fit.h); encode.h has the fast one. `importance` is null or holds one weight ≥
  /// 0 per element of this row part (the column's mean squared activation); formats that cannot use it ignore
  /// it. Non-finite input is the caller's to refuse.
  void (*encode)(const float* in, std::byte* blocks, size_t n, const float* importance);
  /// Takes one block apart; null for Family::floating.
  void (*unpack)(const std::byte* block, AffineBlock& out);
  /// Puts one together, of d and dmin that the block can hold: the inverse of unpack.
  void (*pack)(const AffineBlock& in, std::byte* block);
  /// Null where codes do not lie in such runs (and for Family::floating): then blocks come apart one by one.
  const BlockFields* fields = nullptr;

  double bits_per_weight() const { return 8.0 * bytes / block; }
};

/// Null for a type that this build does not know.
const QuantInfo* find_quant(DType dtype);
/// Any case; "Q4K" finds Q4_K, "BF16" BF16.
const QuantInfo* find_quant(std::string_view name);
/// All formats, ordered by DType.
std::span<const QuantInfo* const> all_quants();
/// The name of any ggml type number, for messages: "IQ2_XXS", or "type 77".
std::string dtype_name(DType dtype);

/// Bytes of `elements` weights in rows of `cols`; empty when the type is unknown, a row is not a whole number
/// of blocks or the product overflows.
std::optional<uint64_t> tensor_bytes(DType dtype, uint64_t rows, uint64_t cols);

/// Bytes of a tensor as it is stored, with what lies beside its `data`.
uint64_t stored_bytes(const RawTensor& tensor);
/// "Q4_K", "GPTQ 4-bit g128": for people.
std::string type_name(const RawTensor& tensor);

/// Decodes a whole tensor (or rows [first, first + count)) to f32 with the scalar reference.
void decode_rows(const RawTensor& tensor, int64_t first, int64_t count, float* out);

}  // namespace quern
