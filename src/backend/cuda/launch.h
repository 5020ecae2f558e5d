// What the backend and the kernels tell each other. Included by both compilers: plain types only, with no
// bytes between their members (a step is compared with earlier ones byte for byte, queue.h: `unused` fills
// gaps). Pointers are to device memory. Launches never fail by themselves: the device reports at the next
// synchronization.
#pragma once

#include <cstdint>

#include "backend/cuda/layout.h"
#include "core/best_of_row.h"

namespace quern::cuda {

class Queue;
using Stream = Queue*;  // null on the emulator

struct Grid {
  int x = 1, y = 1, z = 1;
};

/// f32 rows; see backend.h's Tensor.
struct Rows {
  float* data = nullptr;
  int rows = 0;
  int cols = 0;
  int64_t stride = 0;
};

// ---- kernels/elementwise.cu

void launch_rms_norm(Rows out, Rows in, const float* gain, int group, float eps, Stream stream);
void launch_silu_mul(Rows out, Rows gate, Rows up, Stream stream);
void launch_add(Rows out, Rows in, Stream stream);
/// out[i] = in[rows[i]].
void launch_gather(Rows out, Rows in, const int32_t* rows, Stream stream);
/// For each i < targets: out[target[i]] += Σ weight[e] · in[e] over e = entry[first[i]] … entry[first[i + 1]
/// − 1], in that order.
struct ScatterArgs {
  Rows out, in;
  int targets = 0, unused = 0;
  const int32_t *target = nullptr, *first = nullptr, *entry = nullptr;
  const float* weight = nullptr;
};
void launch_scatter_add(const ScatterArgs& args, Stream stream);

// ---- kernels/best.cu

/// The best of each row, with the total at scale[row].
void launch_best_of_rows(BestOfRow* out, Rows in, const float* scale, Stream stream);

// ---- kernels/embed.cu

/// out[r] = row ids[r] of a packed matrix, computed as the reference does, unit for unit.
void launch_embed(Rows out, const Packed& table, const Form& form, const int32_t* ids, Stream stream);
enum class FloatKind : int { f32, f16, bf16 };
/// out[r] = row ids[r] of a table of floats, exactly.
void launch_embed_floats(Rows out, const void* table, FloatKind kind, const int32_t* ids, Stream stream);

// ---- kernels/rope.cu

struct RopeArgs {
  Rows x;
  const float* turn = nullptr;  // [row][pairs] {cos, sin}
  int head_dim = 0, pairs = 0;
  int interleaved = 0, unused = 0;
};
/// turn[row][i] = {cos, sin} of positions[row] / frequency[i], times magnitude; the angle in double.
void launch_turns(float* turn, const int32_t* positions, int rows, const float* frequency, int pairs,
                  float magnitude, Stream stream);
void launch_rope(const RopeArgs& args, Stream stream);

// ---- kernels/activations.cu

/// Activations as the matmuls want them: row r's values divided by scale[r], a power of two that brings the
/// largest below 2^15 and above half of that, as halves, padded with zeros to `padded` columns. Rows up to
/// padded_rows are room: they may hold anything.
struct ActivationArgs {
  Rows in;
  const int32_t* source = nullptr;  // output row r is input row source[r]; null: r
  const int32_t* order =
      nullptr;  // [padded]: output column k is input column order[k], 0 where negative; null: k
  int rows = 0, padded_rows = 0, padded = 0;
  int by_units = 0;  // != 0: laid out for wgmma, for forms whose order of k is `sub`
  int sub = 32;
  int unused = 0;
  uint16_t* x =
      nullptr;  // [padded_rows][padded]; by units: [padded / 64][padded_rows][64], see matmul_hopper.h
  float* scale = nullptr;  // [padded_rows]
};
void launch_activations(const ActivationArgs& args, Stream stream);

/// What makes rows whose next use is a matmul, and those rows as the matmul wants them, in one: a block a
/// row, of at most kRowStepCols columns once padded. But for `permute`, all pointers and strides on 16 bytes,
/// and columns in fours.
struct RowStepArgs {
  enum Kind : int { copy, permute, rms_norm, silu_mul };  // permute: by to.order
  Rows in;
  Rows up;                      // silu_mul: out = silu(in) · up
  const float* gain = nullptr;  // rms_norm
  float eps = 0;
  int unused = 0;
  float* out = nullptr;  // rms_norm, silu_mul: in f32 as well
  int64_t stride = 0;
  ActivationArgs to;  // all but in, source and rows
};
constexpr int kRowStepCols = 16384;
void launch_row_step(RowStepArgs::Kind kind, const RowStepArgs& args, Stream stream);

// ---- kernels/matmul.h

constexpr int kTargets = 3;
constexpr int kNarrowCols = 8;  // rows of activations that `narrow` takes
constexpr int kWideRows = 128;  // outputs of a block of `wide`
constexpr int kWideThreads = 128;

struct Target {
  Packed weight;  // the first of a stack
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t stride = 0;
  int accumulate = 0;
  int first_block = 0;  // of the grid's x
  int first_col = 0;    // of all targets' outputs, in whole tiles
  int unused = 0;
};

/// Rows [first, first + count) of the activations by one matrix of the stack.
struct Job {
  int32_t matrix = 0, first = 0, count = 0, unused = 0;
};

struct MatmulArgs {
  Target target[kTargets];
  int targets = 1;
  int rows = 0;  // of activations
  const uint16_t* x = nullptr;
  const float* scale = nullptr;
  int padded = 0, padded_rows = 0;  // of x
  const Job* jobs = nullptr;        // one a block of the grid's z; null: the rows in order, as many as fit
  float* partial = nullptr;         // [splits][rows][cols] when there are several splits (never with jobs)
  int cols = 0;                     // all targets' outputs, in whole tiles
  int splits = 1;                   // of K
  int chunks = 1;                   // of rows (hopper)
  int share = 1;                    // warps that share a tile's K (narrow)
  int cluster = 1;                  // blocks that share activations (hopper)
  int unused = 0;
};

using MatmulLaunch = void (*)(const MatmulArgs&, Grid, int threads, Stream);
/// kernels/matmul_hopper.h: by columns; grid x: blocks of kHopperRows outputs, up to whole clusters, ·
/// chunks, y: splits.
using HopperLaunch = void (*)(const MatmulArgs&, Grid, Stream);
constexpr int kHopperCols[] = {16, 32, 64, 128, 256};
constexpr int kHopperRows = 128;  // outputs of a block: all of them read the same activations
/// Blocks that shall fit on a multiprocessor.
QUERN_BOTH int hopper_blocks(int cols) { return cols <= 64 ? 2 : 1; }
struct HopperKernels {
  HopperLaunch of_cols[5] = {};
};
struct MatmulKernels {
  Form form;
  MatmulLaunch narrow;  // grid x: as many tiles each as `share` leaves of a block's warps (1, 2, 4 or 8)
  MatmulLaunch wide32, wide128;  // by columns; grid x: blocks of kWideRows outputs, y: splits
  HopperKernels hopper;          // null on the emulator
};
/// Null when there are none for it.
const MatmulKernels* matmul_kernels(const Form& form);
/// Adds up `partial` in order.
void launch_add_splits(const MatmulArgs& args, Stream stream);

// ---- kernels/attention.h, kernels/kv.cu

enum class KvKind : int { f16, f8 };  // f8: e4m3

/// A block of the cache: for each KV head K as [tokens][dim], then V transposed as [dim][tokens], with tokens
/// rounded up to 8 and dim to one of 64, 96, 128, 256.
struct KvForm {
  KvKind kind = KvKind::f16;
  int heads = 0, head_dim = 0, dim = 0;
  int block_size = 0, tokens = 0;

  QUERN_BOTH int element() const { return kind == KvKind::f16 ? 2 : 1; }
  QUERN_BOTH int64_t matrix_bytes() const { return int64_t{dim} * tokens * element(); }
  QUERN_BOTH int64_t block_bytes() const { return 2 * heads * matrix_bytes(); }
  /// Of a head's K; its V follows.
  QUERN_BOTH int64_t head_at(int64_t block, int head) const {
    return block * block_bytes() + 2 * head * matrix_bytes();
  }
};

/// SequenceSlice on the device.
struct Slice {
  int32_t row = 0, count = 0, start = 0;
  int32_t blocks = 0;  // where its block numbers begin
};

struct KvWriteArgs {
  uint8_t* cache = nullptr;
  KvForm form;
  Rows k, v;
  const int32_t* slice_of_row = nullptr;
  const Slice* slices = nullptr;
  const int32_t* blocks = nullptr;
};
void launch_kv_write(const KvWriteArgs& args, Stream stream);
/// launch_rope, then launch_kv_write of keys among its columns, in one.
void launch_rope_kv_write(const RopeArgs& rope, const KvWriteArgs& kv, Stream stream);

/// Some queries of one sequence and KV head: pairs [first, first + count) of its rows · group (row, query
/// head) pairs, row by row; and part `split` of `splits` of the keys.
struct AttentionJob {
  int32_t slice = 0, first = 0, split = 0, splits = 1;
  int32_t partial =
      0;  // where this job's pairs begin among the partial results, when there are several splits
  int32_t unused[3] = {};
};
constexpr int kPairsShared = 16;  // pairs of a job whose keys are shared out among the block's warps
constexpr int kPairsOwn = 64;     // pairs of a job where each warp has its own 16

struct AttentionArgs {
  const uint8_t* cache = nullptr;
  KvForm form;
  Rows q, out;
  int group = 1;  // query heads of a KV head
  float scale = 1;
  int window = 0, unused = 0;
  const Slice* slices = nullptr;
  const int32_t* blocks = nullptr;
  const AttentionJob* jobs = nullptr;  // one a block of the grid's x; y is the KV head
  float* partial_out = nullptr;        // [partial pair][heads of KV][dim]
  float* partial_stats = nullptr;      // [partial pair][heads of KV] {largest, sum}
};
/// `own`: jobs of kPairsOwn pairs, never split; else of kPairsShared.
void launch_attention(const AttentionArgs& args, int jobs, bool own, Stream stream);
/// Joins splits: one job a block here is a pair range with all its splits' partial results at
/// partial + split · kPairsShared.
void launch_join_splits(const AttentionArgs& args, int jobs, Stream stream);

}  // namespace quern::cuda
