// The wide product on Hopper (sm_90a): wgmma, with the weights as its left operand. Their layout is that of
// mma's fragments, which is also what a warp gives wgmma, so they go from shared memory as codes into
// registers, become halves there, and into the tensor cores; the activations are read by the tensor cores
// from shared memory.
//
// A block is 128 outputs, 16 for each of its warps, by `cols` rows of activations. One more warp
// copies, unit by unit and several units ahead: from each of the tiles its codes and scales, and the
// activations, which were laid out for it (ActivationArgs::by_units): unit after unit, each row's 64 halves
// in the order in which the fragments take them, 16-byte parts swizzled. Weights are copied ahead of the
// kernel that makes the activations. What it does, the others need no instructions for: of few columns, these
// are the limit.
//
// A unit's products go to the tensor cores in groups; while one is at work, the next one's weights are made.
//
// Blocks of a cluster (args.cluster) have the same activations: each copies a part of them to all, so that
// they come through the L2 cache once for the cluster. A stage is empty when the warps of all its blocks have
// left it.
#pragma once

#include "backend/cuda/kernels/matmul.h"
#ifdef __CUDACC__
#include "backend/cuda/simt/hopper.cuh"
#else
#include "backend/cuda/simt/hopper_emulator.h"
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDACC__)
#define QUERN_HAS_WGMMA 1
#endif

namespace quern::cuda {

/// A block's size and shared memory: stages, 1024 bytes to align them, and the barriers.
template <Form form, int cols>
struct HopperBlock {
  static constexpr int kTiles = kHopperRows / kTile;
  static constexpr int kBlocks = hopper_blocks(cols);
  /// With many columns the accumulators need more registers than an even share, so the copying warp is one of
  /// four that give theirs up.
  static constexpr bool kShares = cols == 256;
  static constexpr int kThreads = kWarp * (kTiles + (kShares ? 4 : 1));
  /// A quarter of a multiprocessor has 16384 registers and takes every fourth warp.
  static constexpr int kWarpsOfQuarter = (kThreads / kWarp * kBlocks + 3) / 4;
  static constexpr int kRegisters = 16384 / (kWarp * kWarpsOfQuarter) / 8 * 8;  // of a thread
  // A stage: activations, which begin on 1024 bytes, codes and scales of a unit.
  static constexpr int kX = cols * kUnit * 2;
  static constexpr int kCodes = 4 * unit_words(form.bits);  // bytes of a tile
  static constexpr int kHeads = 4 * HeadCopies<form>::kWords;
  static constexpr int kSent = kX + kTiles * kCodes;  // in bulk
  static constexpr int kStage = (kSent + kTiles * kHeads + 1023) / 1024 * 1024;
  static constexpr int kRoom = 208 * 1024 / kBlocks;
  static constexpr int kStages = kRoom / kStage < 12 ? kRoom / kStage : 12;
  static constexpr int kBytes = kStages * kStage + 1024 + 2 * kStages * 8;
};

#ifdef QUERN_HAS_WGMMA
/// The copying warp: fills stages as they become empty. Scales come in pieces of 16 bytes, from all lanes;
/// the rest in bulk, by one. (Where the compiler must expect several lanes, it makes a loop over them of each
/// bulk copy, which takes as long as the tensor cores need for the unit.)
template <Form form, int cols>
QUERN_DEVICE void copy_units(const MatmulArgs& args, const Packed& w, int first_tile, int first_row,
                             int begin, int end, int rank, uint8_t* shared, hopper::Barrier* full,
                             hopper::Barrier* empty, int lane) {
  using namespace hopper;
  using Block = HopperBlock<form, cols>;
  constexpr int stages = Block::kStages;
  // Scales: each lane has the same few pieces of every unit.
  constexpr int pieces = Block::kHeads > 0 ? Block::kHeads / 16 : 1;  // of a tile
  constexpr int all_pieces = Block::kTiles * Block::kHeads / 16;
  constexpr int rounds = (all_pieces + kWarp - 1) / kWarp;
  // Tiles that the matrix does not have are its last one once more; nobody stores what comes of them.
  const int tile = first_tile < w.tiles ? first_tile : w.tiles - 1, others = w.tiles - 1 - tile;
  const uint32_t* codes = codes_of<form>(w, tile, begin);
  const int tile_words = w.units * unit_words(form.bits);
  HeadCopies<form> heads[rounds > 0 ? rounds : 1];
  QUERN_UNROLL
  for (int j = 0; j < rounds; ++j) {
    const int piece = lane + kWarp * j, t = piece / pieces;
    heads[j] = HeadCopies<form>(w, tile + (t < others ? t : others), piece % pieces);
  }
  const int part = Block::kX / args.cluster;  // bytes
  const uint16_t* x = args.x + (int64_t{begin} * args.padded_rows + first_row) * kUnit + rank * part / 2;
  const int64_t x_step = int64_t{args.padded_rows} * kUnit;
  const auto start_weights = [&](int i, int stage) {
    uint8_t* to = shared + stage * Block::kStage + Block::kX;
    if constexpr (all_pieces > 0) {
      QUERN_UNROLL
      for (int j = 0; j < rounds; ++j) {
        const int piece = lane + kWarp * j;
        if (kWarp * (j + 1) > all_pieces && piece >= all_pieces) continue;
        heads[j].template start<0>(shared_place(to + Block::kTiles * Block::kCodes + 16 * piece), begin + i,
                                   piece % pieces);
      }
      arrive_after_copies(full + stage);
    }
    if (!elected()) return;
    arrive_expecting(full + stage, Block::kSent);
    const uint32_t* from = codes + i * unit_words(form.bits);
    QUERN_UNROLL
    for (int t = 0; t < Block::kTiles; ++t)
      copy_bulk(to + t * Block::kCodes, from + (t < others ? t : others) * tile_words, Block::kCodes,
                full + stage);
  };
  const auto start_x = [&](int i, int stage) {
    if (!elected()) return;
    uint8_t* to = shared + stage * Block::kStage + rank * part;
    if (args.cluster > 1)
      copy_bulk_to_all(to, x + i * x_step, part, full + stage, args.cluster);
    else
      copy_bulk(to, x + i * x_step, part, full + stage);
  };
  const int units = end - begin, ahead = units < stages ? units : stages;
  for (int i = 0; i < ahead; ++i) start_weights(i, i);
  wait_for_previous();
  for (int i = 0; i < ahead; ++i) start_x(i, i);
  for (int i = ahead, stage = 0, parity = 0; i < units; ++i) {
    wait(empty + stage, parity);
    start_weights(i, stage);
    start_x(i, stage);
    if (++stage == stages) stage = 0, parity ^= 1;
  }
}

/// A warp's tile: d += weights · activations over the units.
template <Form form, int cols>
QUERN_DEVICE void multiply_units(float (&d)[cols / 2], int zero_code, int begin, int end,
                                 const uint8_t* shared, hopper::Barrier* full, hopper::Barrier* empty,
                                 int cluster, int warp, int lane) {
  using namespace hopper;
  using Block = HopperBlock<form, cols>;
  constexpr int stages = Block::kStages;
  constexpr int together = cols >= 128 ? 4 : 2;  // products that go to the tensor cores as one group
  const Zero zero = Zero::of(zero_code);
  const auto leave = [&](int stage) {
    if (cluster > 1 && lane < cluster) arrive_at(empty + stage, lane);
    if (cluster == 1 && lane == 0) arrive(empty + stage);
  };
  int stage = 0, parity = 0, before = 0;
  uint32_t a[2][together][4];
  keep(d);
  for (int first = begin; first < end; first += 2) {
    QUERN_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int unit = first + i;
      if (unit >= end) continue;
      const uint8_t* at = shared + stage * Block::kStage;
      const uint8_t *codes = at + Block::kX + warp * Block::kCodes,
                    *heads = at + Block::kSent + warp * Block::kHeads;
      wait(full + stage, parity);
      Raw<form> raw;
      load_codes<form>(raw, reinterpret_cast<const uint32_t*>(codes), lane, FromShared{});
      load_heads<form>(raw, reinterpret_cast<const uint32_t*>(heads), lane);
      const uint64_t right = descriptor(at);
      QUERN_UNROLL
      for (int h = 0; h < 4; h += together) {
        uint32_t(&weights)[together][4] = a[(i * 4 + h) / together % 2];
        QUERN_UNROLL
        for (int j = 0; j < together; ++j) scaled<form>(weights[j], raw, h + j, zero);
        wgmma_fence();
        QUERN_UNROLL
        for (int j = 0; j < together; ++j) wgmma<cols>(d, weights[j], further(right, h + j));
        wgmma_commit();
        wgmma_wait<1>();  // those before: their registers are free
        if (h == 0 && unit > begin) leave(before);
      }
      before = stage;
      if (++stage == stages) stage = 0, parity ^= 1;
    }
  }
  wgmma_wait<0>();
  keep(d);
}

/// A warp's tile, from output `first_n` and row `first_m` on, to the outputs or to its split's sums: `finish`
/// for all of them, where what does not change is read once, and 16 outputs' loads are under way together.
template <int cols>
QUERN_DEVICE void store_tile(const float (&d)[cols / 2], const MatmulArgs& args, const Target& target,
                             int first_n, int first_m, int lane) {
  const bool split = args.splits > 1, add = !split && target.accumulate != 0;
  const int n = first_n + lane / 4, m = first_m + 2 * (lane % 4);
  const bool has_n[2] = {n < target.weight.rows, n + 8 < target.weight.rows};
  const int64_t stride = split ? args.cols : target.stride;
  float* out = split ? args.partial + (int64_t{block_y()} * args.rows + m) * stride + target.first_col + n
                     : target.out + m * stride + n;
  float factor[2] = {1, 1}, bias[2] = {0, 0};
  QUERN_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (split || !has_n[half]) continue;
    factor[half] = target.weight.factor[n + 8 * half];
    if (target.bias != nullptr) bias[half] = target.bias[n + 8 * half];
  }
  constexpr int parts = cols / 8, together = parts < 4 ? parts : 4;
  QUERN_UNROLL
  for (int first = 0; first < parts; first += together) {
    float scale[together][2], before[together][4] = {};
    QUERN_UNROLL
    for (int j = 0; j < together; ++j) {
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * (first + j) + i % 2;
        const bool has_m = m + row < args.rows;
        if (i < 2) scale[j][i] = has_m && !split ? args.scale[m + row] : 1.0f;
        if (add && has_m && has_n[i / 2]) before[j][i] = out[row * stride + 8 * (i / 2)];
      }
    }
    QUERN_UNROLL
    for (int j = 0; j < together; ++j) {
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int row = 8 * (first + j) + i % 2;
        const float value = d[4 * (first + j) + i] * factor[i / 2] * scale[j][i % 2] + bias[i / 2];
        if (m + row < args.rows && has_n[i / 2]) out[row * stride + 8 * (i / 2)] = before[j][i] + value;
      }
    }
  }
}
#endif

template <int code, int cols>
QUERN_KERNEL_WITH_REGISTERS((HopperBlock<Form::of(code), cols>::kRegisters))
hopper_wide(QUERN_ARGUMENT MatmulArgs args) {
#ifdef QUERN_HAS_WGMMA
  using namespace hopper;
  constexpr Form form = Form::of(code);
  using Block = HopperBlock<form, cols>;
  QUERN_DYNAMIC_SHARED(dynamic);
  uint8_t* shared = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  auto* full = reinterpret_cast<Barrier*>(shared + Block::kStages * Block::kStage);
  Barrier* empty = full + Block::kStages;
  if (thread_x() == 0) {
    const int senders = 1 + (Block::kHeads > 0 ? kWarp : 0);
    for (int i = 0; i < Block::kStages; ++i)
      init(full + i, senders), init(empty + i, Block::kTiles * args.cluster);
    fence_init();
  }
  if (args.cluster > 1)
    sync_cluster();
  else
    sync_block();
  let_next_start();

  // Neighbouring blocks share weights, which come from memory; all activations stay in the cache.
  const int rank = block_x() % args.cluster, of_cluster = block_x() / args.cluster;
  const int chunk = of_cluster % args.chunks, block = of_cluster / args.chunks * args.cluster + rank;
  const Target& target = args.target[target_of(args, block)];
  const Packed& w = target.weight;
  const int first_tile = (block - target.first_block) * Block::kTiles;
  const int first_row = chunk * cols;
  const int each = (w.units + args.splits - 1) / args.splits;
  const int begin = each * block_y(), end = begin + each < w.units ? begin + each : w.units;
  const int lane = thread_x() % kWarp, warp = thread_x() / kWarp;

  if (warp >= Block::kTiles) {
    if constexpr (Block::kShares) give_up_registers<56>();
    if (warp == Block::kTiles)
      copy_units<form, cols>(args, w, first_tile, first_row, begin, end, rank, shared, full, empty, lane);
  } else {
    if constexpr (Block::kShares) take_registers<224>();
    float d[cols / 2] = {};
    multiply_units<form, cols>(d, w.zero, begin, end, shared, full, empty, args.cluster, warp, lane);
    // For itself, whatever the copying warp has waited for: what is stored, and what is read for it, may be
    // in use by the kernel before.
    wait_for_previous();
    store_tile<cols>(d, args, target, kTile * (first_tile + warp), first_row, lane);
  }
  if (args.cluster > 1) sync_cluster();
#endif
}

template <Form form, int cols>
void launch_hopper(const MatmulArgs& args, Grid grid, Stream stream) {
  constexpr int bytes = HopperBlock<form, cols>::kBytes;
  auto* kernel = &hopper_wide<form.code(), cols>;
  QUERN_LAUNCH_CLUSTERS(kernel, grid, (HopperBlock<form, cols>::kThreads), bytes, args.cluster, stream)(args);
}

template <Form form>
constexpr HopperKernels hopper_kernels_of() {
  return {{launch_hopper<form, 16>, launch_hopper<form, 32>, launch_hopper<form, 64>,
           launch_hopper<form, 128>, launch_hopper<form, 256>}};
}
template <Form form>
constexpr MatmulKernels kernels_of() {
  MatmulKernels kernels = plain_kernels_of<form>();
  kernels.hopper = hopper_kernels_of<form>();
  return kernels;
}

}  // namespace quern::cuda
