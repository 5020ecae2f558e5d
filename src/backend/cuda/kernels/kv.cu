#include "backend/cuda/launch.h"
#include "backend/cuda/simt/simt.h"

namespace quern::cuda {
namespace {

constexpr int kThreads = 128;

/// To the nearest e4m3 (1 sign, 4 exponent bits with bias 7, 3 of mantissa), ties to even; at most ±448, NaN
/// stays NaN.
QUERN_DEVICE uint8_t f8_of(float x) {
  const uint32_t bits = bits_of_float(x);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80);
  const float magnitude = fminf(fabsf(x), 448.0f);
  if (x != x) return 0x7f;
  if (magnitude < 0x1p-6f)  // below the normal numbers: multiples of 2^-9
    return static_cast<uint8_t>(sign | static_cast<int>(rintf(magnitude * 512.0f)));
  const uint32_t whole = bits_of_float(magnitude);
  const uint32_t rounded = (whole + 0x7ffff + (whole >> 20 & 1)) >> 20;
  return static_cast<uint8_t>(sign | (rounded - ((127 - 7) << 3)));
}

QUERN_DEVICE void put(uint8_t* matrix, KvKind kind, int64_t at, float x) {
  if (kind == KvKind::f16)
    reinterpret_cast<uint16_t*>(matrix)[at] = static_cast<uint16_t>(h2_of(x, 0.0f));
  else
    matrix[at] = f8_of(x);
}

/// Where a row's keys and values of a head go.
struct Place {
  uint8_t *keys, *values;
  int slot;
  QUERN_DEVICE static Place of(const KvWriteArgs& args, int row, int head) {
    const KvForm& form = args.form;
    const Slice slice = args.slices[args.slice_of_row[row]];
    const int position = slice.start + row - slice.row;
    const int64_t block = args.blocks[slice.blocks + position / form.block_size];
    uint8_t* keys = args.cache + form.head_at(block, head);
    return {keys, keys + form.matrix_bytes(), position % form.block_size};
  }
  QUERN_DEVICE void put_key(const KvForm& form, int d, float x) const {
    put(keys, form.kind, int64_t{slot} * form.dim + d, x);
  }
  QUERN_DEVICE void put_value(const KvForm& form, int d, float x) const {
    put(values, form.kind, int64_t{d} * form.tokens + slot, x);
  }
};

/// x: rows, y: KV heads.
QUERN_KERNEL(kThreads) kv_write(QUERN_ARGUMENT KvWriteArgs args) {
  let_next_start();
  wait_for_previous();
  const KvForm& form = args.form;
  const int row = block_x(), head = block_y();
  const Place place = Place::of(args, row, head);
  const float* k = args.k.data + row * args.k.stride + head * form.head_dim;
  const float* v = args.v.data + row * args.v.stride + head * form.head_dim;
  for (int d = thread_x(); d < form.dim; d += block_threads()) {
    const bool real = d < form.head_dim;
    place.put_key(form, d, real ? k[d] : 0.0f);
    place.put_value(form, d, real ? v[d] : 0.0f);
  }
}

/// x: rows, y: heads, those that turn and then those of values.
QUERN_KERNEL(kThreads)
rope_kv_write(QUERN_ARGUMENT RopeArgs rope, QUERN_ARGUMENT KvWriteArgs args, int first_key) {
  let_next_start();
  wait_for_previous();
  const KvForm& form = args.form;
  const int row = block_x(), turning = rope.x.cols / rope.head_dim;
  if (block_y() >= turning) {
    const int head = block_y() - turning;
    const Place place = Place::of(args, row, head);
    const float* v = args.v.data + row * args.v.stride + head * form.head_dim;
    for (int d = thread_x(); d < form.dim; d += block_threads())
      place.put_value(form, d, d < form.head_dim ? v[d] : 0.0f);
    return;
  }
  float* head = rope.x.data + row * rope.x.stride + block_y() * rope.head_dim;
  const float* turn = rope.turn + int64_t{row} * rope.pairs * 2;
  const bool is_key = block_y() >= first_key;
  const Place place = is_key ? Place::of(args, row, block_y() - first_key) : Place{};
  for (int pair = thread_x(); pair < rope.pairs; pair += block_threads()) {
    const int at = rope.interleaved ? 2 * pair : pair,
              other = rope.interleaved ? 2 * pair + 1 : pair + rope.pairs;
    const float a = head[at], b = head[other];
    const float c = turn[2 * pair], s = turn[2 * pair + 1];
    head[at] = a * c - b * s;
    head[other] = a * s + b * c;
    if (!is_key) continue;
    place.put_key(form, at, a * c - b * s);
    place.put_key(form, other, a * s + b * c);
  }
  if (!is_key) return;
  for (int d = 2 * rope.pairs + thread_x(); d < form.dim; d += block_threads())
    place.put_key(form, d, d < form.head_dim ? head[d] : 0.0f);
}

}  // namespace

void launch_kv_write(const KvWriteArgs& args, Stream stream) {
  const Grid grid{args.k.rows, args.form.heads, 1};
  QUERN_LAUNCH(kv_write, grid, kThreads, stream)(args);
}

void launch_rope_kv_write(const RopeArgs& rope, const KvWriteArgs& kv, Stream stream) {
  const auto first_key = static_cast<int>(kv.k.data - rope.x.data) / rope.head_dim;
  const Grid grid{kv.k.rows, rope.x.cols / rope.head_dim + kv.form.heads, 1};
  QUERN_LAUNCH(rope_kv_write, grid, kThreads / 2, stream)(rope, kv, first_key);
}

}  // namespace quern::cuda
