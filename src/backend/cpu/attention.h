// Layout of a KV block on the CPU, and the unit of work of attention.
//
// A block holds `block_size` tokens. For each KV head, one after another:
//   f16:   K  [head_dim][tokens]   f16, transposed: a vector lane is a token
//          V  [tokens][head_dim]   f16, a lane is a dimension
//   q8_0:  K  [head_dim][tokens] int8, K scale [⌈head_dim/32⌉][tokens] f32,
//          V  [tokens][head_dim] int8, V scale [⌈head_dim/32⌉][tokens] f32
// with `tokens` and `head_dim` rounded up to multiples of 16. GQA reads each KV head once for all query heads
// of its group.
#pragma once

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
  float* scratch;  // attention_scratch(layout) floats, aligned to 64
};

/// Queries and accumulators, a tile's scores and those by each group's scales, a span's keys and values; per
/// query a maximum and 16 sums.
inline int64_t attention_scratch(const KvLayout& layout) {
  return kMaxQueries * (2 * layout.dim + 17) +
         kSpan * (kMaxTileQueries * (1 + layout.groups) + 2 * layout.dim);
}

}  // namespace quern::cpu
