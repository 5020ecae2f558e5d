// How the GPU holds a weight matrix, so that a lane's loads are its tensor-core fragments.
//
// The weights are the left operand of mma.m16n8k16 (simt/device.cuh), the activations the right one: a tile
// is 16 outputs, and along K it is a run of units of 64 weights, padded with zeros. For each unit a lane
// holds four fragments of 16 columns, kt = 0…3, of four registers each: a register is a pair of weights of
// one row.
//
//   row of (lane, reg)      lane / 4 + 8 · (reg & 1)
//   k of (lane, reg, half)  with t = lane % 4, hi = reg / 2, i = half:
//     sub 32:  32 · (kt / 2) + 8t + 4 · (kt % 2) + 2hi + i
//     sub 16:  16 · kt + 4t + 2hi + i
//
// mma adds over all k, so which k stands where is free as long as both operands agree: this order makes the
// activations of a lane 8 (or 4) neighbours, and keeps every fragment within one group of `sub` weights.
//
// Codes: the 16 registers of a lane and unit are pairs 0…15 (4kt + reg). Codes of `bits` bits are cut into
// planes of 1, 2, 4, 8 or 16 bits, 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, the lower bits in the plane named first.
// A plane of p bits has p words a lane; pair i lies in word i / (16 / p), its first weight at bit
// p · (i % (16 / p)), its second 16 bits higher. Words of a lane lie together, up to four, lanes side by
// side.
//
// w[n, k] = factor[n] · (s · (code − zero) − m), s and m of the row's group:
//   plain  a group is 32 << group_shift weights; heads[tile][group][8] = {s, s} (then {m, m}) as halves of
//   rows
//          r and r + 8
//   super  supers[tile][K / 256][8] = {d, d} (then {dmin, dmin}) as halves; heads[tile][unit][8], for rows r
//          and r + 8 the scale of each group (int8), then, with minimums, likewise the minimums (uint8);
//          s = d · scale, m = dmin · min
// 16 bits: the code is a half, w = factor[n] · code.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define QUERN_BOTH __host__ __device__ constexpr
#else
#define QUERN_BOTH constexpr
#endif

namespace quern::cuda {

constexpr int kTile = 16;    // outputs
constexpr int kUnit = 64;    // weights along K
constexpr int kSuper = 256;  // weights that share d
constexpr int kPairs = 16;   // of a lane and unit

/// What kernels are made for.
struct Form {
  int bits = 4;        // 2, 3, 4, 5, 6, 8 or 16
  int sub = 32;        // k order, and groups of a unit: 64 / sub
  bool super = false;  // scales in two levels
  bool min = false;

  constexpr bool operator==(const Form&) const = default;
  QUERN_BOTH int groups() const { return kUnit / sub; }  // of a unit, in the kernels' eyes
  /// Words of a row pair's scales: of a group when plain, of a unit when super.
  QUERN_BOTH int head_words() const {
    if (bits == 16) return 0;
    return (super ? groups() / 2 : 1) * (min ? 2 : 1);
  }
  QUERN_BOTH int super_words() const { return super ? (min ? 2 : 1) : 0; }

  /// A form as one number: nvcc's host code takes no classes as arguments of kernel templates.
  QUERN_BOTH int code() const { return bits | sub << 8 | (super ? 1 << 16 : 0) | (min ? 1 << 17 : 0); }
  static QUERN_BOTH Form of(int code) {
    return {code & 0xff, code >> 8 & 0xff, (code >> 16 & 1) != 0, (code >> 17 & 1) != 0};
  }
};

QUERN_BOTH int fragment_row(int lane, int reg) { return lane / 4 + 8 * (reg & 1); }
QUERN_BOTH int fragment_k(int sub, int kt, int lane, int reg, int half) {
  const int t = lane % 4, rest = 2 * (reg >> 1) + half;
  return sub == 32 ? 32 * (kt / 2) + 8 * t + 4 * (kt % 2) + rest : 16 * kt + 4 * t + rest;
}

/// The other way: who holds weight k (of a unit) of a row.
struct Spot {
  int lane, pair, half;
};
QUERN_BOTH Spot spot_of(int sub, int row, int k) {
  const int kt = sub == 32 ? 2 * (k / 32) + k % 8 / 4 : k / 16;
  const int t = sub == 32 ? k % 32 / 8 : k % 16 / 4;
  return {4 * (row % 8) + t, 4 * kt + 2 * (k % 4 / 2) + row / 8, k % 2};
}

QUERN_BOTH int low_plane(int bits) { return bits == 3 ? 2 : bits == 5 || bits == 6 ? 4 : bits; }
QUERN_BOTH int high_plane(int bits) { return bits - low_plane(bits); }

QUERN_BOTH int pair_word(int plane, int pair) { return pair / (16 / plane); }
QUERN_BOTH int pair_shift(int plane, int pair) { return plane * (pair % (16 / plane)); }
/// Where word `word` of a lane lies in a unit's plane.
QUERN_BOTH int word_at(int plane, int lane, int word) {
  return plane < 4 ? lane * plane + word : (word / 4 * 32 + lane) * 4 + word % 4;
}
QUERN_BOTH int unit_words(int bits) { return 32 * bits; }

QUERN_BOTH int tiles_of(int64_t rows) { return static_cast<int>((rows + kTile - 1) / kTile); }
QUERN_BOTH int units_of(int64_t cols) { return static_cast<int>((cols + kUnit - 1) / kUnit); }
QUERN_BOTH int supers_of(int units) { return (units + 3) / 4; }
/// Groups of a plain row.
QUERN_BOTH int groups_of(int units, int group_shift) { return ((2 * units - 1) >> group_shift) + 1; }

/// A packed matrix in device memory; of a stack, one behind the other.
struct Packed {
  const uint32_t* codes = nullptr;
  const uint32_t* heads = nullptr;
  const uint32_t* supers = nullptr;
  const float* factor = nullptr;  // one a row, rows padded to whole tiles
  int rows = 0, tiles = 0, units = 0;
  int zero = 0;
  int group_shift = 0;
  int unused = 0;

  QUERN_BOTH int64_t code_words(int bits) const { return int64_t{tiles} * units * unit_words(bits); }
  QUERN_BOTH int64_t head_words(const Form& form) const {
    const int each = form.super ? units : groups_of(units, group_shift);
    return int64_t{tiles} * each * 8 * form.head_words();
  }
  QUERN_BOTH int64_t super_words(const Form& form) const {
    return int64_t{tiles} * supers_of(units) * 8 * form.super_words();
  }
  /// Matrix `index` of a stack.
  QUERN_BOTH Packed of_stack(const Form& form, int index) const {
    Packed p = *this;
    p.codes += index * code_words(form.bits);
    if (heads != nullptr) p.heads += index * head_words(form);
    if (supers != nullptr) p.supers += index * super_words(form);
    p.factor += int64_t{index} * tiles * kTile;
    return p;
  }
};

}  // namespace quern::cuda
