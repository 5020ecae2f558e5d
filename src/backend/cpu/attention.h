// Layout of a KV block on the CPU, and the unit of work of attention.
//
// A block holds `block_size` tokens. For each KV head, one after another:
//   f16:   K  [head_dim][tokens]   f16, transposed: a vector lane is a token
//          V  [tokens][head_dim]   f16, a lane is a dimension
//   q8_0:  K  [head_dim / 4][tokens][4] uint8 (code + 128), K scale [⌈head_dim/32⌉][tokens] f32: what four
//             dimensions of a token are to the matmuls' kernels is what four weights of a row are (packed.h)
//          V  [tokens][head_dim] int8, V scale [⌈head_dim/32⌉][tokens] f32
// with `tokens` and `head_dim` rounded up to multiples of 16. GQA reads each KV head once for all query heads
// of its group.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/backend.h"

namespace quern::cpu {

struct KvLayout {
  int64_t tokens = 0;  // block_size, rounded up
  int64_t dim = 0;     // head_dim, rounded up
  int64_t groups = 0;  // of 32 dimensions (q8_0)
  int64_t element = 2;
  bool q8 = false;

  explicit KvLayout(const KvShape& shape)
      : tokens((shape.block_size + 15) / 16 * 16),
        dim((shape.head_dim + 15) / 16 * 16),
        groups((shape.head_dim + 31) / 32),
        element(shape.type == KvType::q8_0 ? 1 : 2),
        q8(shape.type == KvType::q8_0) {}

  int64_t k_scale_offset() const { return dim * tokens * element; }
  int64_t v_offset() const { return k_scale_offset() + (q8 ? groups * tokens * 4 : 0); }
  int64_t v_scale_offset() const { return v_offset() + tokens * dim * element; }
  int64_t head_bytes() const { return v_scale_offset() + (q8 ? tokens * groups * 4 : 0); }
};

constexpr int kMaxQueries = 128;  // (row, head) pairs that one task takes through a block together
constexpr int kMaxTileQueries = 8;
constexpr int64_t kSpan = 32;  // tokens of a block that are taken at a time

/// A sequence's blocks come in stretches of about 1024 tokens, counted from its first. Each begins with
/// nothing gathered, and what the stretches gave is put together in their order, so that threads can share a
/// sequence and the result does not show whether they did.
inline int64_t stretch_blocks(int64_t block_size) { return std::max<int64_t>(1, 1024 / block_size); }

/// What a stretch gives, for `queries` queries: sums of values [queries][dim], sums of weights [queries][16]
/// (to be added up) and the highest score [queries] that both are relative to; `lowest()` where nothing was
/// seen.
struct Gathered {
  float* acc;
  float* sum;
  float* top;
  Gathered(float* at, int64_t dim, int64_t queries)
      : acc(at), sum(acc + queries * dim), top(sum + queries * 16) {}
  /// A multiple of 16.
  static int64_t floats(int64_t dim, int64_t queries) {
    return queries * (dim + 16) + (queries + 15) / 16 * 16;
  }
};

struct AttentionTask {
  const KvLayout* layout;
  int64_t block_size;
  int64_t head_dim;
  const std::byte* head;  // this KV head in block 0
  int64_t block_bytes;    // from one block to the next
  const int32_t* blocks;  // of the sequence
  const float* q;         // first row's first head of the group
  float* out;
  int64_t q_stride;
  int64_t out_stride;
  int rows;
  int heads;       // query heads of the group; rows · heads ≤ kMaxQueries
  int64_t start;   // position of the first row
  int64_t window;  // 0: none
  float scale;
  /// Null: all stretches, into `out`. Otherwise stretch `stretch` alone, into this Gathered.
  float* gathered = nullptr;
  int64_t stretch = 0;

  int queries() const { return rows * heads; }
  /// Query i: head i % heads of row i / heads.
  const float* query(int i) const { return q + i / heads * q_stride + i % heads * head_dim; }
  /// The positions that some query sees: [from(), to()).
  int64_t from() const { return window > 0 ? std::max<int64_t>(0, start + 1 - window) : 0; }
  int64_t to() const { return start + rows; }
  int64_t first_stretch() const { return from() / block_size / stretch_blocks(block_size); }
  int64_t last_stretch() const { return (to() - 1) / block_size / stretch_blocks(block_size); }
};

/// Where things lie in a thread's memory for a task, in floats from its beginning: the queries (which take
/// the most as f32), and from there on
struct AttentionScratch {
  int64_t all, part;      // what the stretches so far gave, and the next one
  int64_t score, scaled;  // of a tile, and by each group's scales
  int64_t keys, values;   // of a span
  int64_t floats;
  explicit AttentionScratch(const KvLayout& layout)
      : all(kMaxQueries * layout.dim),
        part(all + Gathered::floats(layout.dim, kMaxQueries)),
        score(part + Gathered::floats(layout.dim, kMaxQueries)),
        scaled(score + kMaxTileQueries * kSpan),
        keys(scaled + layout.groups * kMaxTileQueries * kSpan),
        values(keys + layout.dim * kSpan),
        floats(values + layout.dim * kSpan) {}
};

}  // namespace quern::cpu
