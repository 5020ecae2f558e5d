// How the CPU holds a matrix of the affine family (quant.h), and the int8 activations it multiplies.
//
// Rows come in tiles of 16; a vector lane is a row. Along K a tile is a run of superblocks of 256 weights
// (the last one may be shorter, by whole units of 32). One superblock, for its n units:
//
//   d       one per `d_units` units × 16 rows   f16, or f32 where the format needs it
//   dmin    likewise, when the format has minimums; where they are zero points (has_zeros), one byte each
//   scale   one per group × 16 rows             int8, when scales vary inside a block
//   min     likewise                            uint8
//   codes   n units of 64 · bits bytes
//
// A unit is 32 weights of 16 rows: eight vectors of 64 bytes, vector j holding code[4j + i] of row r at byte
// 4r + i, the operand that vpdpbusd, sdot and an AMX tile take as it is. Codes of less than 8 bits are cut
// into planes, stored one after another in the unit:
//
//   4-bit plane  4 × 64 bytes: vector i holds the low nibbles of vector i and, above them, of vector i + 4
//   2-bit plane  2 × 64 bytes: vector i holds vectors i, i + 2, i + 4, i + 6, from the lowest bits up
//   1-bit plane  1 × 64 bytes: bit j belongs to vector j
//
// 2 = 2, 3 = 2 + 1, 4 = 4, 5 = 4 + 1, 6 = 4 + 2 bits, the lower bits in the plane named first.
//
// The sum of one output, in the one order that every path and every ISA keeps: for each unit, for each of its
// groups g (one of 32 weights or two of 16),
//   i   = Σ code · xq − zero · Σ xq                          exact, int32
//   acc = fma(float(i), (d · scale[g]) · dx, acc)            d · scale is exact in f32
//   acc = fma(−(dmin · min[g]), dx · Σ xq, acc)              with minimums only
// Zero points that differ from row to row are minimums of d · zero, exact in f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/tensor.h"
#include "quant/quant.h"

namespace quern::cpu {

constexpr int kTileRows = 16;
constexpr int kUnit = 32;
constexpr int kSuperUnits = 8;
constexpr int kSuper = kUnit * kSuperUnits;
constexpr int kMostHeaderBytes = 2 * kSuperUnits * kTileRows * (4 + 2);  // d in f32, two groups a unit

struct PackedLayout {
  int bits = 0;    // 2, 3, 4, 5, 6 or 8
  int groups = 1;  // per unit: 1 or 2
  int zero = 0;    // 0 where there are minimums
  bool has_min = false;
  bool has_zeros = false;  // has_min, and the minimums are d · zero: a byte where dmin would be
  bool has_scales = false;
  bool wide_d = false;
  int d_units = 1;  // units that share one d: 1 … 8
  int64_t cols = 0;

  int64_t units() const { return cols / kUnit; }
  int64_t d_bytes() const { return kTileRows * (wide_d ? 4 : 2); }
  /// Of a dmin vector, or of what stands in its place.
  int64_t dmin_bytes() const { return has_zeros ? kTileRows : has_min ? d_bytes() : 0; }
  /// d vectors in a superblock of `units`.
  int64_t d_count(int64_t units) const { return (units + d_units - 1) / d_units; }
  int64_t header_bytes(int64_t units) const {
    const int64_t scales = has_scales ? (has_min ? 2 : 1) * units * groups * kTileRows : 0;
    return d_count(units) * (d_bytes() + dmin_bytes()) + scales;
  }
  int64_t unit_bytes() const { return 64 * bits; }
  int64_t super_bytes(int64_t units) const { return header_bytes(units) + units * unit_bytes(); }
  int64_t tile_bytes() const {
    const int64_t rest = units() % kSuperUnits;
    return units() / kSuperUnits * super_bytes(kSuperUnits) + (rest > 0 ? super_bytes(rest) : 0);
  }
};

/// Empty when this layout cannot hold the format exactly (then the matrix is held as f32).
std::optional<PackedLayout> packed_layout(const QuantInfo& info, int64_t cols);

/// Tiles of one matrix of `rows`.
constexpr int64_t tile_count(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

/// One tile of a matrix as a file holds it.
struct PackTile {
  const QuantInfo* info;
  const PackedLayout* layout;
  const std::byte* rows;  // the first row's blocks
  size_t row_bytes;
  uint8_t* out;  // layout->tile_bytes()
};

/// Packs `rows` rows (≤ 16) block by block; rows beyond become zeros. The reference that Kernels::pack_tile
/// is held to, and what packs the rest of a matrix and formats without BlockFields.
void pack_tile_reference(const PackTile& job, int rows);

/// Cuts the eight code vectors of a unit into its planes: 64 · bits bytes.
void put_unit(int bits, const uint8_t (&vec)[8][64], uint8_t* out);

}  // namespace quern::cpu
