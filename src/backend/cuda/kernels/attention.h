// Attention over the paged cache with the tensor cores, one pass with a running maximum (as FlashAttention).
//
// A warp has 16 queries: (row, query head) pairs of one sequence and KV head. It goes through the keys in
// chunks of up to 32 that lie in one block of the cache. mma adds over dimensions, or keys, in any order, so
// both are numbered such that what a lane loads lies together (g = lane / 4, t = lane % 4):
//   scores  fragment s of 32 dimensions: lane t has dimensions 8t + 4s … 8t + 4s + 3. Column c of score part
//           n is key 8 · (c / 2) + 2n + c % 2, so a lane's scores are those of keys 8t + 2n and the next …
//   values  … which is what it must hold as left operand: fragment j has its keys 8t + 4j … 8t + 4j + 3, and
//   V
//           lies transposed, so that eight keys of one dimension are one load.
// Scores are in units of log 2.
#pragma once

#include "backend/cuda/launch.h"
#include "backend/cuda/simt/simt.h"

namespace quern::cuda {

constexpr int kChunk = 32;    // keys
constexpr int kQueries = 16;  // of a warp
constexpr int kAttentionWarps = 4;
constexpr float kLog2e = 1.44269504f;
constexpr int kPad = 8;  // halves behind a query in shared memory, against bank conflicts

/// e4m3 to halves: sign, exponent and mantissa move into place, which is 2^-8 of the value.
QUERN_DEVICE uint32_t halves_of_f8(uint32_t two) {
  const uint32_t apart = (two & 0xff) | (two & 0xff00) << 8;
  const uint32_t moved = (apart & 0x00800080u) << 8 | (apart & 0x007f007fu) << 7;
  return h2_mul(moved, 0x5c005c00u);  // · 256
}

/// Words of eight neighbours, as stored.
template <KvKind kind>
constexpr int kEightWords = kind == KvKind::f16 ? 4 : 2;

template <KvKind kind>
QUERN_DEVICE void halves_of(uint32_t (&w)[4], const uint32_t (&stored)[kEightWords<kind>]) {
  QUERN_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (kind == KvKind::f16)
      w[i] = stored[i];
    else
      w[i] = halves_of_f8(stored[i / 2] >> (16 * (i % 2)));
  }
}

/// What a warp has found so far of its 16 queries; half 0: query lane / 4, half 1: + 8.
template <int dim>
struct Found {
  float out[dim / 8][4] = {};  // part m: dimensions 8m + 2t and the next
  float most[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // this lane's part of it
};

struct Chunk {
  const uint8_t* keys;  // of its first token
  const uint8_t* values;
  int stored;    // tokens of the block from here on, whole eights
  int position;  // of its first token
  int count;     // keys that exist: 1 … 32
};

/// Registers hold this many of the eights that a lane needs of a chunk's keys, or values: all of them are
/// asked for before the first is used, so that a chunk waits for memory once and not for each (the compiler
/// would).
constexpr int kEights = 16;

/// Which eight tokens of a chunk a lane reads: tokens that are not stored have no place, so others are read
/// for them, whose scores, or weights, do not count.
QUERN_DEVICE int stored_eight(const Chunk& chunk, int eight) {
  const int last = chunk.stored / 8 - 1;
  return eight < last ? eight : last;
}

template <int dim, KvKind kind>
QUERN_DEVICE void score(float (&s)[4][4], const uint16_t* queries, const Chunk& chunk, int lane) {
  constexpr int words = kEightWords<kind>, parts = dim / 32;
  constexpr int together = parts < kEights / 4 ? parts : kEights / 4;
  const int g = lane / 4, t = lane % 4, token = 8 * stored_eight(chunk, g / 2) + g % 2;
  const uint8_t* keys = chunk.keys + (int64_t{token} * dim + 8 * t) * (words / 2);
  QUERN_UNROLL
  for (int first = 0; first < parts; first += together) {
    uint32_t stored[together][4][words];
    QUERN_UNROLL
    for (int j = 0; j < together; ++j) {
      QUERN_UNROLL
      for (int n = 0; n < 4; ++n)
        load_at<words, 0>(stored[j][n], keys + (2 * n * dim + 32 * (first + j)) * (words / 2));
    }
    QUERN_UNROLL
    for (int j = 0; j < together; ++j) {
      const uint16_t* query = queries + g * (dim + kPad) + 32 * (first + j) + 8 * t;
      const auto upper = *reinterpret_cast<const Words4*>(query);
      const auto lower = *reinterpret_cast<const Words4*>(query + 8 * (dim + kPad));
      QUERN_UNROLL
      for (int n = 0; n < 4; ++n) {
        uint32_t k[4];
        halves_of<kind>(k, stored[j][n]);
        QUERN_UNROLL
        for (int step = 0; step < 2; ++step) {
          const uint32_t a[4] = {upper.w[2 * step], lower.w[2 * step], upper.w[2 * step + 1],
                                 lower.w[2 * step + 1]};
          mma(s[n], a, k[2 * step], k[2 * step + 1]);
        }
      }
    }
  }
}

/// Scores to weights, after bringing what was found before to the new maximum. `position[half]` is the
/// query's.
template <int dim>
QUERN_DEVICE void weigh(Found<dim>& found, float (&s)[4][4], const Chunk& chunk, const int (&position)[2],
                        int window, int lane) {
  QUERN_UNROLL
  for (int half = 0; half < 2; ++half) {
    float most = found.most[half];
    QUERN_UNROLL
    for (int n = 0; n < 4; ++n) {
      QUERN_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int token = 8 * (lane % 4) + 2 * n + i, at = chunk.position + token;
        const bool seen =
            token < chunk.count && at <= position[half] && (window == 0 || at > position[half] - window);
        float& x = s[n][2 * half + i];
        x = seen ? x : -INFINITY;
        most = fmaxf(most, x);
      }
    }
    most = fmaxf(most, shfl_xor(most, 1));
    most = fmaxf(most, shfl_xor(most, 2));
    const bool any = most > -INFINITY;
    const float keep = any ? exp2f(found.most[half] - most) : 1.0f;
    float sum = found.sum[half] * keep;
    QUERN_UNROLL
    for (int n = 0; n < 4; ++n) {
      QUERN_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& x = s[n][2 * half + i];
        x = any ? exp2f(x - most) : 0.0f;
        sum += x;
      }
    }
    found.most[half] = most;
    found.sum[half] = sum;
    QUERN_UNROLL
    for (int m = 0; m < dim / 8; ++m) {
      found.out[m][2 * half] *= keep;
      found.out[m][2 * half + 1] *= keep;
    }
  }
}

/// Memory that no token was written to may hold anything, NaN included: zeros instead.
QUERN_DEVICE void drop_unwritten(uint32_t (&v)[4], int count, int t) {
  QUERN_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int token = 8 * t + 2 * i;
    if (token >= count) v[i] = 0;
    if (token + 1 >= count) v[i] &= 0xffffu;
  }
}

/// Takes the queries through a chunk.
template <int dim, KvKind kind>
QUERN_DEVICE void attend(Found<dim>& found, const uint16_t* queries, const Chunk& chunk,
                         const int (&position)[2], int window, int tokens, int lane) {
  constexpr int words = kEightWords<kind>, parts = dim / 8;
  constexpr int together = parts < kEights ? parts : kEights;
  float s[4][4] = {};
  score<dim, kind>(s, queries, chunk, lane);

  const int g = lane / 4, t = lane % 4;
  const uint8_t* values = chunk.values + (int64_t{g} * tokens + 8 * stored_eight(chunk, t)) * (words / 2);
  uint32_t stored[together][words];
  const auto load = [&](int first) {
    QUERN_UNROLL
    for (int m = 0; m < together; ++m)
      load_at<words, 0>(stored[m], values + int64_t{8 * (first + m)} * tokens * (words / 2));
  };
  load(0);
  weigh<dim>(found, s, chunk, position, window, lane);
  uint32_t a[2][4];
  QUERN_UNROLL
  for (int j = 0; j < 2; ++j) {
    a[j][0] = h2_of(s[2 * j][0], s[2 * j][1]);
    a[j][1] = h2_of(s[2 * j][2], s[2 * j][3]);
    a[j][2] = h2_of(s[2 * j + 1][0], s[2 * j + 1][1]);
    a[j][3] = h2_of(s[2 * j + 1][2], s[2 * j + 1][3]);
  }
  QUERN_UNROLL
  for (int first = 0; first < parts; first += together) {
    if (first > 0) load(first);
    QUERN_UNROLL
    for (int m = 0; m < together; ++m) {
      uint32_t v[4];
      halves_of<kind>(v, stored[m]);
      if (chunk.count < kChunk) drop_unwritten(v, chunk.count, t);
      mma(found.out[first + m], a[0], v[0], v[1]);
      mma(found.out[first + m], a[1], v[2], v[3]);
    }
  }
}

/// The chunks of a sequence, numbered through its blocks.
struct Chunks {
  KvForm form;
  const uint8_t* cache;
  const int32_t* blocks;
  int head, length;

  QUERN_DEVICE int per_block() const { return (form.block_size + kChunk - 1) / kChunk; }
  QUERN_DEVICE int of_position(int position) const {
    return position / form.block_size * per_block() + position % form.block_size / kChunk;
  }
  QUERN_DEVICE Chunk at(int index) const {
    const int block = index / per_block(), first = index % per_block() * kChunk;
    Chunk chunk;
    const uint8_t* head_data = cache + form.head_at(blocks[block], head);
    chunk.keys = head_data + int64_t{first} * form.dim * form.element();
    chunk.values = head_data + form.matrix_bytes() + int64_t{first} * form.element();
    chunk.stored = form.tokens - first;
    chunk.position = block * form.block_size + first;
    int count = form.block_size - first;
    if (count > kChunk) count = kChunk;
    if (count > length - chunk.position) count = length - chunk.position;
    chunk.count = count;
    return chunk;
  }
};

/// Queries of `count` pairs from pair `first` on, times the scale, into shared memory; zeros beyond.
template <int dim>
QUERN_DEVICE void load_queries(uint16_t* to, const AttentionArgs& args, const Slice& slice, int first,
                               int count, int room) {
  for (int i = thread_x(); i < room * dim / 2; i += block_threads()) {
    const int pair = i / (dim / 2), d = i % (dim / 2) * 2;
    float x[2] = {0, 0};
    if (pair < count) {
      const int row = (first + pair) / args.group,
                head = block_y() * args.group + (first + pair) % args.group;
      const float* q = args.q.data + (slice.row + row) * args.q.stride + head * args.form.head_dim;
      for (int j = 0; j < 2; ++j)
        if (d + j < args.form.head_dim) x[j] = q[d + j] * (args.scale * kLog2e);
    }
    *reinterpret_cast<uint32_t*>(to + pair * (dim + kPad) + d) = h2_of(x[0], x[1]);
  }
}

/// Where the result of a pair goes.
QUERN_DEVICE float* result_of(const AttentionArgs& args, const Slice& slice, int pair) {
  const int row = pair / args.group, head = block_y() * args.group + pair % args.group;
  return args.out.data + (slice.row + row) * args.out.stride + head * args.form.head_dim;
}

/// Each warp its own 16 queries, all of their keys.
template <int dim, KvKind kind>
QUERN_KERNEL(32 * kAttentionWarps)
attention_own(QUERN_ARGUMENT AttentionArgs args) {
  let_next_start();
  QUERN_SHARED(uint16_t, queries, kPairsOwn * (dim + kPad));
  const AttentionJob job = args.jobs[block_x()];  // these no kernel writes
  const Slice slice = args.slices[job.slice];
  wait_for_previous();
  const int left = slice.count * args.group - job.first;
  load_queries<dim>(queries, args, slice, job.first, left < kPairsOwn ? left : kPairsOwn, kPairsOwn);
  sync_block();
  const int lane = thread_x() % kWarp, first = thread_x() / kWarp * kQueries;
  if (first >= left) return;
  const int last = first + kQueries < left ? first + kQueries - 1 : left - 1;
  const Chunks chunks{args.form, args.cache, args.blocks + slice.blocks, block_y(),
                      slice.start + slice.count};
  int position[2];
  for (int half = 0; half < 2; ++half) {
    const int pair = first + lane / 4 + 8 * half;
    position[half] = pair < left ? slice.start + (job.first + pair) / args.group : -1;
  }
  const int earliest = slice.start + (job.first + first) / args.group;
  const int begin = args.window > 0 && earliest >= args.window ? earliest - args.window + 1 : 0;
  const int end = chunks.of_position(slice.start + (job.first + last) / args.group);
  Found<dim> found;
  for (int i = chunks.of_position(begin); i <= end; ++i) {
    const Chunk chunk = chunks.at(i);
    attend<dim, kind>(found, queries + first * (dim + kPad), chunk, position, args.window, args.form.tokens,
                      lane);
  }
  QUERN_UNROLL
  for (int half = 0; half < 2; ++half) {
    float sum = found.sum[half];
    sum += shfl_xor(sum, 1);
    sum += shfl_xor(sum, 2);
    const int pair = first + lane / 4 + 8 * half;
    if (pair >= left) continue;
    float* out = result_of(args, slice, job.first + pair);
    QUERN_UNROLL
    for (int m = 0; m < dim / 8; ++m) {
      QUERN_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int d = 8 * m + 2 * (lane % 4) + i;
        if (d < args.form.head_dim) out[d] = found.out[m][2 * half + i] / sum;
      }
    }
  }
}

/// The warps' results of the same 16 queries, joined in shared memory: `joined[query][dim]`, and the largest
/// score and the sum of each.
template <int dim>
QUERN_DEVICE void join_warps(Found<dim>& found, float* joined, float* most, float* sum, int lane, int warp) {
  QUERN_UNROLL
  for (int half = 0; half < 2; ++half) {
    float own = found.sum[half];
    own += shfl_xor(own, 1);
    own += shfl_xor(own, 2);
    if (lane % 4 != 0) continue;
    most[warp * kQueries + lane / 4 + 8 * half] = found.most[half];
    sum[warp * kQueries + lane / 4 + 8 * half] = own;
  }
  sync_block();
  for (int turn = 0; turn < kAttentionWarps; ++turn) {
    QUERN_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (turn != warp) continue;
      const int query = lane / 4 + 8 * half;
      float all = -INFINITY;
      for (int i = 0; i < kAttentionWarps; ++i) all = fmaxf(all, most[i * kQueries + query]);
      const float part = found.most[half] > -INFINITY ? exp2f(found.most[half] - all) : 0.0f;
      QUERN_UNROLL
      for (int m = 0; m < dim / 8; ++m) {
        QUERN_UNROLL
        for (int i = 0; i < 2; ++i) {
          float& to = joined[query * dim + 8 * m + 2 * (lane % 4) + i];
          const float add = found.out[m][2 * half + i] * part;
          to = turn == 0 ? add : to + add;
        }
      }
    }
    sync_block();
  }
}

/// The same 16 queries for all warps, which take turns with the chunks of this job's part of the keys: chunk
/// i is that of warp i mod 4 in every job, so that a query's result does not depend on the others.
template <int dim, KvKind kind>
QUERN_KERNEL(32 * kAttentionWarps)
attention_shared(QUERN_ARGUMENT AttentionArgs args) {
  let_next_start();
  QUERN_SHARED(uint16_t, queries, kPairsShared * (dim + kPad));
  QUERN_SHARED(float, joined, kQueries* dim);
  QUERN_SHARED(float, most, kAttentionWarps* kQueries);
  QUERN_SHARED(float, sum, kAttentionWarps* kQueries);
  const AttentionJob job = args.jobs[block_x()];  // these no kernel writes
  const Slice slice = args.slices[job.slice];
  wait_for_previous();
  const int left = slice.count * args.group - job.first;
  const int count = left < kPairsShared ? left : kPairsShared;
  load_queries<dim>(queries, args, slice, job.first, count, kPairsShared);
  sync_block();
  const int lane = thread_x() % kWarp, warp = thread_x() / kWarp;
  const Chunks chunks{args.form, args.cache, args.blocks + slice.blocks, block_y(),
                      slice.start + slice.count};
  int position[2];
  for (int half = 0; half < 2; ++half) {
    const int pair = lane / 4 + 8 * half;
    position[half] = pair < count ? slice.start + (job.first + pair) / args.group : -1;
  }
  const int earliest = slice.start + job.first / args.group;
  const int seen = args.window > 0 && earliest >= args.window ? earliest - args.window + 1 : 0;
  const int first = chunks.of_position(seen);
  const int total = chunks.of_position(slice.start + (job.first + count - 1) / args.group) + 1 - first;
  const int each = (total + job.splits - 1) / job.splits;
  const int begin = first + each * job.split;
  const int end = each * (job.split + 1) < total ? begin + each : first + total;
  Found<dim> found;
  const int turn = (warp - begin % kAttentionWarps + kAttentionWarps) % kAttentionWarps;
  for (int i = begin + turn; i < end; i += kAttentionWarps) {
    const Chunk chunk = chunks.at(i);
    attend<dim, kind>(found, queries, chunk, position, args.window, args.form.tokens, lane);
  }
  join_warps<dim>(found, joined, most, sum, lane, warp);

  const int heads = args.form.heads;
  for (int i = thread_x(); i < count * dim; i += block_threads()) {
    const int pair = i / dim, d = i % dim;
    float all = -INFINITY, weights = 0;
    for (int w = 0; w < kAttentionWarps; ++w) all = fmaxf(all, most[w * kQueries + pair]);
    for (int w = 0; w < kAttentionWarps; ++w) {
      const float own = most[w * kQueries + pair];
      weights += own > -INFINITY ? sum[w * kQueries + pair] * exp2f(own - all) : 0.0f;
    }
    if (job.splits == 1) {
      if (d < args.form.head_dim)
        result_of(args, slice, job.first + pair)[d] = joined[pair * dim + d] / weights;
    } else {
      const int64_t at = int64_t{job.partial + pair} * heads + block_y();
      args.partial_out[at * dim + d] = joined[pair * dim + d];
      if (d == 0) args.partial_stats[2 * at] = all, args.partial_stats[2 * at + 1] = weights;
    }
  }
}

template <int dim, KvKind kind>
void launch_dim(const AttentionArgs& args, int jobs, bool own, Stream stream) {
  const Grid grid{jobs, args.form.heads, 1};
  auto* kernel = own ? &attention_own<dim, kind> : &attention_shared<dim, kind>;
  QUERN_LAUNCH(kernel, grid, 32 * kAttentionWarps, stream)(args);
}

template <KvKind kind>
void launch_kind(const AttentionArgs& args, int jobs, bool own, Stream stream) {
  switch (args.form.dim) {
    case 64:
      return launch_dim<64, kind>(args, jobs, own, stream);
    case 96:
      return launch_dim<96, kind>(args, jobs, own, stream);
    case 128:
      return launch_dim<128, kind>(args, jobs, own, stream);
    case 256:
      return launch_dim<256, kind>(args, jobs, own, stream);
    default:
      return;
  }
}

void launch_attention_f16(const AttentionArgs& args, int jobs, bool own, Stream stream);
void launch_attention_f8(const AttentionArgs& args, int jobs, bool own, Stream stream);

}  // namespace quern::cuda
