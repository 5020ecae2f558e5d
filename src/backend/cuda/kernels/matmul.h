// out = activations · weightᵀ, for every form of weights (layout.h), with the tensor cores. Each .cu file
// makes the kernels of some forms.
//
// narrow: up to 8 rows of activations. A block is one tile of 16 outputs, its warps share K; every warp reads
//   its part of the weights once, several units ahead, and the activations from the cache. Codes go into the
//   tensor cores as whole numbers, and scales are applied to the f32 sums of each group: nothing is rounded
//   but the activations. The warps' sums are added in order.
// wide: 32, 64 or 128 rows. A block is 128 outputs: four warps of two tiles each, all rows of activations of
//   a unit in shared memory, three units deep. Weights are scaled as halves, once for all rows.
//
// The order of summation of an output depends on K, the form and the kernel, not on the other rows.
#pragma once

#include "backend/cuda/kernels/dequantize.h"
#include "backend/cuda/launch.h"

namespace quern::cuda {

QUERN_DEVICE int target_of(const MatmulArgs& args, int block) {
  int index = 0;
  QUERN_UNROLL
  for (int i = 1; i < kTargets; ++i) index += i < args.targets && block >= args.target[i].first_block;
  return index;
}

QUERN_DEVICE Job job_of(const MatmulArgs& args, int cols) {
  if (args.jobs != nullptr) return args.jobs[block_z()];
  Job job;
  job.first = cols * block_z();
  job.count = args.rows - job.first < cols ? args.rows - job.first : cols;
  return job;
}

/// Output `n` of row `m`.
QUERN_DEVICE void finish(const MatmulArgs& args, const Target& target, const Packed& weight, int n, int m,
                         float sum) {
  float value = sum * weight.factor[n] * args.scale[m];
  if (target.bias != nullptr) value += target.bias[n];
  float* out = target.out + m * target.stride + n;
  *out = target.accumulate ? *out + value : value;
}

/// A lane's activations of one row and unit, as the right operand: fragment kt is w[2kt], w[2kt + 1]. `place`
/// is where the lane's begin in the row, and the unit lies `offset` bytes further on.
template <int sub, int offset>
QUERN_DEVICE void load_x_at(uint32_t (&w)[8], const uint16_t* place) {
  if constexpr (sub == 32) {
    load_at<4, offset>(w, place);
    load_at<4, offset + 64>(w + 4, place);
  } else {
    load_at<2, offset>(w, place);
    load_at<2, offset + 32>(w + 2, place);
    load_at<2, offset + 64>(w + 4, place);
    load_at<2, offset + 96>(w + 6, place);
  }
}

/// sum += a unit's part of 16 outputs × 8 rows. What minimums are multiplied by, the sums of activations,
/// comes out of the tensor cores, too, as products with ones.
template <Form form>
QUERN_DEVICE void add_unit(float (&sum)[4], const Raw<form>& raw, const uint32_t (&x)[8], const Zero& zero) {
  constexpr int each = 4 / form.groups();  // fragments of a group
  constexpr uint32_t ones[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
  QUERN_UNROLL
  for (int j = 0; j < form.groups(); ++j) {
    float part[4], total[4];
    QUERN_UNROLL
    for (int i = 0; i < each; ++i) {
      const int kt = each * j + i;
      uint32_t a[4];
      centered<form>(a, raw, kt, zero);
      if (i == 0) {
        mma_first(part, a, x[2 * kt], x[2 * kt + 1]);
        if constexpr (form.min) mma_first(total, ones, x[2 * kt], x[2 * kt + 1]);
      } else {
        mma(part, a, x[2 * kt], x[2 * kt + 1]);
        if constexpr (form.min) mma(total, ones, x[2 * kt], x[2 * kt + 1]);
      }
    }
    QUERN_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float s = scale_of<form>(raw, j, half);
      sum[2 * half] += s * part[2 * half];
      sum[2 * half + 1] += s * part[2 * half + 1];
      if constexpr (form.min) {
        const float m = min_of<form>(raw, j, half);
        sum[2 * half] -= m * total[2 * half];
        sum[2 * half + 1] -= m * total[2 * half + 1];
      }
    }
  }
}

/// The units of a warp that come one after another through a ring in shared memory: unrolled, so that every
/// address is a constant distance from a pointer.
template <Form form, int depth>
struct NarrowPart {
  static constexpr int words = unit_words(form.bits), head_words = HeadCopies<form>::kWords;

  const HeadCopies<form>& heads;
  const Zero& zero;
  const uint32_t *slots, *head_slots;  // of the ring
  SharedPlace ring, head_ring;         // the lane's place in the second
  const uint32_t* codes;               // of the part's first unit
  const uint16_t* place;               // the lane's, in its row of activations, likewise
  int lane, left;                      // units that are left, this part's and later ones
  bool has_row;
  int first;
  uint32_t (&x)[2][8];
  float (&sum)[4];

  /// Starts the copies of unit `from` into slot `to`.
  template <int to, int from>
  QUERN_DEVICE void fetch_unit() {
    if (from < left) {
      copy_codes<form, to * words, from * words>(ring, codes, lane);
      heads.template start<4 * to * head_words>(head_ring, first + from, lane);
    }
    copy_commit();
  }
  template <int i>
  QUERN_DEVICE void fetch() {
    fetch_unit<i, i>();
    if constexpr (i + 1 < depth) fetch<i + 1>();
  }
  template <int i>
  QUERN_DEVICE void fetch_x() {
    if (i < left && has_row) load_x_at<form.sub, i * 2 * kUnit>(x[i % 2], place);
  }
  template <int i>
  QUERN_DEVICE void multiply() {
    if (i >= left) return;
    copy_wait<depth - 1>();
    sync_warp();  // other lanes have copied this one's scales
    Raw<form> now;
    load_codes<form>(now, slots + i * words, lane, FromShared{});
    load_heads<form>(now, head_slots + i * head_words, lane);
    add_unit<form>(sum, now, x[i % 2], zero);
    sync_warp();  // all lanes have read the slot
    fetch_unit<i, i + depth>();
    fetch_x<i + 2>();
    if constexpr (i + 1 < depth) multiply<i + 1>();
  }
};

/// A block's warps share out its tiles, args.share warps to a tile.
template <int code>  // of a form
QUERN_KERNEL_OF(256, (Form::of(code).super && Form::of(code).min ? 2 : 3))
    narrow(QUERN_ARGUMENT MatmulArgs args) {
  constexpr Form form = Form::of(code);
  constexpr int depth = form.bits <= 4 ? 8 : form.bits <= 8 ? 4 : 2;  // units whose codes are on their way
  using Part = NarrowPart<form, depth>;
  QUERN_SHARED(Words4, ring, 8 * depth * Part::words / 4);  // a lane reads what itself has copied
  QUERN_SHARED(Words4, head_ring, 8 * depth * (Part::head_words > 0 ? Part::head_words : 4) / 4);
  QUERN_SHARED(float, sums_of_warps, 8 * kTile * kNarrowCols);
  let_next_start();
  const Target& target = args.target[target_of(args, block_x())];
  const Job job = job_of(args, kNarrowCols);
  const Packed w = args.jobs != nullptr ? target.weight.of_stack(form, job.matrix) : target.weight;
  const int lane = thread_x() % kWarp, warp = thread_x() / kWarp, share = args.share;
  const int tiles = block_threads() / kWarp / share;  // of a block
  const int first_tile = (block_x() - target.first_block) * tiles;
  const int tile = first_tile + warp / share < w.tiles ? first_tile + warp / share : w.tiles - 1;
  const int each = (w.units + share - 1) / share;
  const int begin = each * (warp % share), end = begin + each < w.units ? begin + each : w.units;
  const bool has_row = lane / 4 < job.count;
  const HeadCopies<form> heads(w, tile, lane);
  const Zero zero = Zero::of(w.zero);
  uint32_t x[2][8] = {};
  float sum[4] = {0, 0, 0, 0};

  uint32_t* slots = reinterpret_cast<uint32_t*>(ring) + warp * depth * Part::words;
  uint32_t* head_slots = reinterpret_cast<uint32_t*>(head_ring) + warp * depth * Part::head_words;
  Part part{heads,
            zero,
            slots,
            head_slots,
            shared_place(slots),
            shared_place(head_slots + 4 * lane),
            codes_of<form>(w, tile, begin),
            args.x + int64_t{job.first + (has_row ? lane / 4 : 0)} * args.padded + kUnit * begin +
                lane % 4 * (form.sub == 32 ? 8 : 4),
            lane,
            end - begin,
            has_row,
            begin,
            x,
            sum};
  part.template fetch<0>();
  wait_for_previous();  // for weights there was no need
  part.template fetch_x<0>();
  part.template fetch_x<1>();
  while (part.left > 0) {
    part.template multiply<0>();
    part.left -= depth;
    part.first += depth;
    part.codes += depth * Part::words;
    part.place += depth * kUnit;
  }
  copy_wait<0>();

  QUERN_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int n = lane / 4 + 8 * (i / 2), m = 2 * (lane % 4) + i % 2;
    if (share > 1)
      sums_of_warps[(warp * kNarrowCols + m) * kTile + n] = sum[i];
    else if (m < job.count && first_tile + warp < w.tiles && kTile * tile + n < w.rows)
      finish(args, target, w, kTile * tile + n, job.first + m, sum[i]);
  }
  if (share == 1) return;
  sync_block();
  for (int at = thread_x(); at < tiles * kTile * kNarrowCols; at += block_threads()) {
    const int m = at / kTile % kNarrowCols, of = at / (kTile * kNarrowCols);
    const int n = kTile * (first_tile + of) + at % kTile;
    if (n >= w.rows || m >= job.count) continue;
    float total = 0;
    for (int i = 0; i < share; ++i)
      total += sums_of_warps[(of * share + i) * kTile * kNarrowCols + at % (kTile * kNarrowCols)];
    finish(args, target, w, n, job.first + m, total);
  }
}

/// Where 16-byte part `part` of row `row` of a unit's activations lies in shared memory, so that the lanes of
/// one load meet different banks.
template <int sub>
QUERN_DEVICE int place_of(int row, int part) {
  return row * 8 + (part ^ (sub == 32 ? (row & 1) << 2 : (row & 3) << 1));
}

/// Fragments 2h and 2h + 1 of a row of activations in shared memory.
template <int sub>
QUERN_DEVICE void load_shared_x(uint32_t (&b)[4], const Words4* unit, int row, int h, int t) {
  if constexpr (sub == 32) {
    load_words<4>(b, unit[place_of<sub>(row, 4 * h + t)].w);
  } else {
    QUERN_UNROLL
    for (int i = 0; i < 2; ++i)
      load_words<2>(b + 2 * i, unit[place_of<sub>(row, 2 * (2 * h + i) + t / 2)].w + 2 * (t % 2));
  }
}

/// Fragment kt as halves of the weights themselves (over `factor`).
template <Form form>
QUERN_DEVICE void scaled(uint32_t (&a)[4], const Raw<form>& raw, int kt, const Zero& zero) {
  centered<form>(a, raw, kt, zero);
  if constexpr (form.bits == 16) return;
  const int group = kt * form.groups() / 4;
  QUERN_UNROLL
  for (int half = 0; half < 2; ++half) {
    const uint32_t s = scale_pair<form>(raw, group, half);
    if constexpr (form.min) {
      const uint32_t m = minus_min_pair<form>(raw, group, half);
      a[half] = h2_fma(a[half], s, m);
      a[half + 2] = h2_fma(a[half + 2], s, m);
    } else {
      a[half] = h2_mul(a[half], s);
      a[half + 2] = h2_mul(a[half + 2], s);
    }
  }
}

/// Starts the copy of a unit's activations into shared memory.
template <int sub, int cols>
QUERN_DEVICE void fetch_x(Words4* shared, const MatmulArgs& args, int first, int unit) {
  for (int i = thread_x(); i < cols * 8; i += block_threads()) {
    const int row = first + i / 8 < args.rows ? first + i / 8 : args.rows - 1;
    copy_async(shared + place_of<sub>(i / 8, i % 8),
               args.x + int64_t{row} * args.padded + kUnit * unit + 8 * (i % 8));
  }
}

template <int code, int cols>
QUERN_KERNEL(128)
wide(QUERN_ARGUMENT MatmulArgs args) {
  constexpr Form form = Form::of(code);
  constexpr int stages = 3, pair = 2, parts = cols / 8;
  QUERN_SHARED(Words4, shared, stages * cols * 8);
  let_next_start();
  const Target& target = args.target[target_of(args, block_x())];
  const Job job = job_of(args, cols);
  const Packed w = target.weight.of_stack(form, job.matrix);
  const int lane = thread_x() % kWarp, warp = thread_x() / kWarp;
  const int first_tile = (block_x() - target.first_block) * (kWideRows / kTile) + pair * warp;
  const int each = (w.units + args.splits - 1) / args.splits;
  const int begin = each * block_y(), end = begin + each < w.units ? begin + each : w.units;
  const Zero zero = Zero::of(w.zero);
  int tile[pair];
  QUERN_UNROLL
  for (int r = 0; r < pair; ++r) tile[r] = first_tile + r < w.tiles ? first_tile + r : w.tiles - 1;

  Raw<form> next[pair];
  QUERN_UNROLL
  for (int r = 0; r < pair; ++r)
    if (begin < end) load_unit<form>(next[r], w, tile[r], begin, lane);
  wait_for_previous();
  for (int i = 0; i < stages - 1; ++i) {
    if (begin + i < end) fetch_x<form.sub, cols>(shared + i * cols * 8, args, job.first, begin + i);
    copy_commit();
  }
  float sum[pair][parts][4] = {};
  for (int unit = begin; unit < end; ++unit) {
    copy_wait<stages - 2>();
    sync_block();  // everybody's copies are there, and nobody reads the stage that is filled next
    const int ahead = unit + stages - 1;
    if (ahead < end)
      fetch_x<form.sub, cols>(shared + (ahead - begin) % stages * cols * 8, args, job.first, ahead);
    copy_commit();
    Raw<form> raw[pair];
    QUERN_UNROLL
    for (int r = 0; r < pair; ++r) {
      raw[r] = next[r];
      if (unit + 1 < end) load_unit<form>(next[r], w, tile[r], unit + 1, lane);
    }
    const Words4* x = shared + (unit - begin) % stages * cols * 8;
    QUERN_UNROLL
    for (int h = 0; h < 2; ++h) {
      uint32_t a[pair][2][4];
      QUERN_UNROLL
      for (int r = 0; r < pair; ++r) {
        scaled<form>(a[r][0], raw[r], 2 * h, zero);
        scaled<form>(a[r][1], raw[r], 2 * h + 1, zero);
      }
      QUERN_UNROLL
      for (int j = 0; j < parts; ++j) {
        uint32_t b[4];
        load_shared_x<form.sub>(b, x, 8 * j + lane / 4, h, lane % 4);
        QUERN_UNROLL
        for (int r = 0; r < pair; ++r) {
          mma(sum[r][j], a[r][0], b[0], b[1]);
          mma(sum[r][j], a[r][1], b[2], b[3]);
        }
      }
    }
  }
  copy_wait<0>();

  QUERN_UNROLL
  for (int r = 0; r < pair; ++r) {
    QUERN_UNROLL
    for (int j = 0; j < parts; ++j) {
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int n = kTile * (first_tile + r) + lane / 4 + 8 * (i / 2), m = 8 * j + 2 * (lane % 4) + i % 2;
        if (n >= w.rows || m >= job.count) continue;
        if (args.splits == 1)
          finish(args, target, w, n, job.first + m, sum[r][j][i]);
        else
          args.partial[(int64_t{block_y()} * args.rows + job.first + m) * args.cols + target.first_col + n] =
              sum[r][j][i];
      }
    }
  }
}

template <Form form>
void launch_narrow(const MatmulArgs& args, Grid grid, int threads, Stream stream) {
  auto* kernel = &narrow<form.code()>;
  QUERN_LAUNCH(kernel, grid, threads, stream)(args);
}
template <Form form, int cols>
void launch_wide(const MatmulArgs& args, Grid grid, int threads, Stream stream) {
  auto* kernel = &wide<form.code(), cols>;
  QUERN_LAUNCH(kernel, grid, threads, stream)(args);
}

/// The kernels of a form, but Hopper's.
template <Form form>
constexpr MatmulKernels plain_kernels_of() {
  return {form, launch_narrow<form>, launch_wide<form, 32>, launch_wide<form, 128>};
}

}  // namespace quern::cuda
