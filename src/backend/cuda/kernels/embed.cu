// Rows of a packed matrix or of a table of floats, as f32: one thread a weight.
#include "backend/cuda/launch.h"
#include "backend/cuda/simt/simt.h"

namespace quern::cuda {
namespace {

constexpr int kThreads = 256;

QUERN_DEVICE int half_of(uint32_t word, int high) { return static_cast<int>(word >> (16 * high) & 0xffff); }
QUERN_DEVICE float half_float(uint32_t word, int high) {
  return float_of_half(static_cast<uint16_t>(half_of(word, high)));
}

QUERN_DEVICE uint32_t plane_code(const uint32_t* words, int plane, const Spot& spot) {
  const uint32_t word = words[word_at(plane, spot.lane, pair_word(plane, spot.pair))];
  return word >> (pair_shift(plane, spot.pair) + 16 * spot.half) & ((1u << plane) - 1);
}

/// Weight k of a row, in the reference's order of operations (quant/affine.h).
QUERN_DEVICE float weight_at(const Packed& w, const Form& form, int row, int k) {
  const int tile = row / kTile, unit = k / kUnit, high_row = row % kTile / 8, pair = row % 8;
  const Spot spot = spot_of(form.sub, row % kTile, k % kUnit);
  const int64_t at = int64_t{tile} * w.units + unit;
  const uint32_t* codes = w.codes + at * unit_words(form.bits);
  const float factor = w.factor[row];
  if (form.bits == 16) return half_float(codes[word_at(16, spot.lane, spot.pair)], spot.half) * factor;
  const int low = low_plane(form.bits), high = high_plane(form.bits);
  uint32_t code = plane_code(codes, low, spot);
  if (high > 0) code |= plane_code(codes + 32 * low, high, spot) << low;

  float s, m = 0;
  if (form.super) {
    const int words = form.head_words(), part = high_row * form.groups() + k % kUnit / form.sub;
    const uint32_t* head = w.heads + (at * 8 + pair) * words;
    const uint32_t* super =
        w.supers + ((int64_t{tile} * supers_of(w.units) + unit / 4) * 8 + pair) * form.super_words();
    const auto scale = static_cast<int8_t>(head[part / 4] >> (8 * (part % 4)));
    s = mul_rounded(half_float(super[0], high_row), static_cast<float>(scale));
    if (form.min) {
      const auto min = static_cast<uint8_t>(head[form.groups() / 2 + part / 4] >> (8 * (part % 4)));
      m = mul_rounded(half_float(super[1], high_row), static_cast<float>(min));
    }
  } else {
    const int groups = groups_of(w.units, w.group_shift), words = form.head_words();
    const uint32_t* head =
        w.heads + ((int64_t{tile} * groups + (k / 32 >> w.group_shift)) * 8 + pair) * words;
    s = half_float(head[0], high_row);
    if (form.min) m = half_float(head[1], high_row);
  }
  const float product = mul_rounded(s, static_cast<float>(static_cast<int>(code) - w.zero));
  return mul_rounded(form.min ? sub_rounded(product, m) : product, factor);
}

QUERN_KERNEL(kThreads) embed(Rows out, QUERN_ARGUMENT Packed table, Form form, const int32_t* ids) {
  let_next_start();
  wait_for_previous();
  const int k = block_x() * block_threads() + thread_x();
  if (k < out.cols) out.data[block_y() * out.stride + k] = weight_at(table, form, ids[block_y()], k);
}

QUERN_KERNEL(kThreads) embed_floats(Rows out, const void* table, FloatKind kind, const int32_t* ids) {
  let_next_start();
  wait_for_previous();
  const int k = block_x() * block_threads() + thread_x();
  if (k >= out.cols) return;
  const int64_t at = int64_t{ids[block_y()]} * out.cols + k;
  float value;
  if (kind == FloatKind::f32)
    value = static_cast<const float*>(table)[at];
  else if (kind == FloatKind::f16)
    value = float_of_half(static_cast<const uint16_t*>(table)[at]);
  else
    value = float_of_bits(static_cast<uint32_t>(static_cast<const uint16_t*>(table)[at]) << 16);
  out.data[block_y() * out.stride + k] = value;
}

Grid by_columns(const Rows& out) { return {(out.cols + kThreads - 1) / kThreads, out.rows, 1}; }

}  // namespace

void launch_embed(Rows out, const Packed& table, const Form& form, const int32_t* ids, Stream stream) {
  QUERN_LAUNCH(embed, by_columns(out), kThreads, stream)(out, table, form, ids);
}

void launch_embed_floats(Rows out, const void* table, FloatKind kind, const int32_t* ids, Stream stream) {
  QUERN_LAUNCH(embed_floats, by_columns(out), kThreads, stream)(out, table, kind, ids);
}

}  // namespace quern::cuda
