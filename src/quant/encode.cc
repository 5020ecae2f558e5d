#include "quant/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "quant/encoder.h"
#include "quant/fit.h"

namespace quern {
namespace {

constexpr float kLargestF16 = 65504;

/// `n` weights from element `begin` on: whole blocks of the source. False when one is not finite.
bool read(const Encoder& encoder, const RawTensor& source, const QuantInfo& from, size_t begin, size_t n,
          float* out) {
  const std::byte* bytes = source.data.data() + begin / from.block * from.bytes;
  if (from.family == Family::floating && n % 16 == 0) return encoder.load_values(source.dtype, bytes, n, out);
  from.decode(bytes, out, n);
  return std::all_of(out, out + n, [](float v) { return std::isfinite(v); });
}

/// Importance of the columns that a tile covers, which may begin in one row and end in another.
struct TileImportance {
  float values[kTileWeights] = {};
  bool all = true, none = true;  // whether blocks have some that counts

  void fill(std::span<const float> columns, size_t begin, size_t n, size_t block) {
    all = none = true;
    for (size_t k = 0; k < n; k += block) {
      std::copy_n(columns.data() + (begin + k) % columns.size(), block, values + k);
      const bool counts = importance_counts(values + k, block);
      all = all && counts;
      none = none && !counts;
    }
  }
};

/// Whether the scale or the minimum is at the end of F16's range, where fitting clamps what lies beyond: the
/// block's weights are larger than its codes can say.
bool clamped(const AffineBlock& block) {
  return std::fabs(block.d) >= kLargestF16 || std::fabs(block.dmin) >= kLargestF16;
}

/// Returns where a weight is that is beyond the range of `to`; blocks · to.block: nowhere.
size_t encode_tile(const Encoder& encoder, const QuantInfo& to, const float* x, size_t blocks,
                   const TileImportance* importance, std::byte* out) {
  AffineBlock fitted[16];
  if (importance == nullptr || importance->none) {
    encoder.fit_tile(to.affine, to.block, x, nullptr, fitted);
  } else if (importance->all && blocks == tile_blocks(to.affine, to.block)) {
    encoder.fit_tile(to.affine, to.block, x, importance->values, fitted);
  } else {
    for (size_t b = 0; b < blocks; ++b)
      fit_block(to.affine, to.block, x + b * to.block, importance->values + b * to.block, fitted[b]);
  }
  for (size_t b = 0; b < blocks; ++b) {
    if (!to.affine.wide_d && clamped(fitted[b])) {
      const float* first = x + b * to.block;
      const auto magnitude = [](float v) { return std::fabs(v); };
      return static_cast<size_t>(std::ranges::max_element(first, first + to.block, {}, magnitude) - x);
    }
    to.pack(fitted[b], out + b * to.bytes);
  }
  return blocks * to.block;
}

/// Where wider floats are beyond the range of halves; n: nowhere.
size_t beyond_f16(const float* x, const std::byte* encoded, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, encoded + i * sizeof(bits), sizeof(bits));
    if ((bits & 0x7C00) == 0x7C00 && std::isfinite(x[i])) return i;
  }
  return n;
}

tl::unexpected<Error> not_finite(const RawTensor& source, size_t begin, const float* x, size_t n) {
  const float* bad = std::find_if(x, x + n, [](float v) { return !std::isfinite(v); });
  const size_t row = (begin + static_cast<size_t>(bad - x)) / static_cast<size_t>(source.cols());
  return fail(ErrorCode::corrupt, "tensor {}: row {} has a value that is not finite", source.name, row);
}

tl::unexpected<Error> too_large(const QuantInfo& to, const RawTensor& source, size_t at, float value) {
  return fail(ErrorCode::unsupported,
              "tensor {}: row {} has the value {}, which is beyond {}: take BF16 or F32", source.name,
              at / static_cast<size_t>(source.cols()), value,
              to.family == Family::affine ? fmt::format("the range of {}, whose scales are F16", to.name)
                                          : "F16's range of ±65504");
}

}  // namespace

Result<void> encode_rows(const QuantInfo& to, const RawTensor& source, int64_t first, int64_t count,
                         std::byte* out, std::span<const float> importance) {
  const auto cols = static_cast<size_t>(source.cols());
  if (source.grouped != nullptr) {
    std::vector<float> values(static_cast<size_t>(count) * cols);
    decode_rows(source, first, count, values.data());
    const RawTensor plain{source.name, DType::F32, {count, source.cols()}, std::as_bytes(std::span(values))};
    return encode_rows(to, plain, 0, count, out, importance);
  }
  const QuantInfo* from = find_quant(source.dtype);
  QUERN_CHECK(from != nullptr && first >= 0 && count >= 0 && first <= source.rows() - count);
  QUERN_CHECK(cols % to.block == 0 && cols % from->block == 0);
  QUERN_CHECK(importance.empty() || importance.size() == cols);
  QUERN_TRY(const Encoder* encoder, choose_encoder());
  const bool narrows = to.dtype == DType::F16 && source.dtype != DType::F16;
  const bool affine = to.family == Family::affine;
  const size_t tile = affine ? tile_blocks(to.affine, to.block) * to.block : kTileWeights;
  const size_t end = static_cast<size_t>(first + count) * cols;
  QUERN_CHECK(end / from->block * from->bytes <= source.data.size());
  TileImportance weights;
  for (size_t begin = static_cast<size_t>(first) * cols; begin < end; begin += tile) {
    alignas(64) float x[kTileWeights] = {};
    const size_t n = std::min(tile, end - begin);
    if (!read(*encoder, source, *from, begin, n, x)) return not_finite(source, begin, x, n);
    if (!importance.empty() && affine) weights.fill(importance, begin, n, to.block);
    size_t beyond = n;
    if (affine) {
      beyond = encode_tile(*encoder, to, x, n / to.block, importance.empty() ? nullptr : &weights, out);
    } else {
      to.encode(x, out, n, nullptr);
      if (narrows) beyond = beyond_f16(x, out, n);
    }
    if (beyond < n) return too_large(to, source, begin + beyond, x[beyond]);
    out += n / to.block * to.bytes;
  }
  return {};
}

std::span<const Encoder* const> available_encoders() {
  static const Encoder* const all[] = {
#if defined(__x86_64__)
    &encoder_avx512,
    &encoder_avx2,
#elif defined(__aarch64__)
    &encoder_neon,
#endif
    &encoder_scalar
  };
  static const size_t first = [] {  // they are in the order of what they need
    size_t i = 0;
    while (i + 1 < std::size(all) &&
           std::ranges::find(available_isas(), all[i]->name) == available_isas().end())
      ++i;
    return i;
  }();
  return std::span(all).subspan(first);
}

Result<const Encoder*> choose_encoder() {
  QUERN_TRY(const std::string_view isa, choose_isa());
  for (const Encoder* encoder : available_encoders()) {
    if (isa.starts_with(encoder->name)) return encoder;  // "neon-dotprod": nothing here needs dot products
  }
  return available_encoders().back();
}

}  // namespace quern
