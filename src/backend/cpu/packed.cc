#include "backend/cpu/packed.h"

#include <cstring>

#include "core/half.h"

namespace quern::cpu {
namespace {

/// One superblock of a tile, taken apart: what `pack` puts together.
struct Stage {
  float d[kSuperUnits][kTileRows];
  float dmin[kSuperUnits][kTileRows];
  int8_t scale[2 * kSuperUnits][kTileRows];
  uint8_t min[2 * kSuperUnits][kTileRows];
  uint8_t code[kTileRows][kSuper];
};

/// Reads one row's part of a superblock: `units` units from `blocks`.
void stage_row(const QuantInfo& info, const PackedLayout& layout, const std::byte* blocks, int64_t units,
               int row, Stage& stage) {
  AffineBlock block;
  const int weights = static_cast<int>(info.block);
  const int block_units = weights / kUnit;
  for (int64_t u = 0; u < units; u += block_units, blocks += info.bytes) {
    info.unpack(blocks, block);
    stage.d[u / layout.d_units][row] = block.d;
    stage.dmin[u / layout.d_units][row] = block.dmin;
    if (layout.has_scales) {
      for (int g = 0; g < block_units * layout.groups; ++g) {
        stage.scale[u * layout.groups + g][row] = static_cast<int8_t>(block.scale[g]);
        stage.min[u * layout.groups + g][row] = block.min[g];
      }
    }
    std::memcpy(&stage.code[row][u * kUnit], block.code, static_cast<size_t>(weights));
  }
}

std::byte* put_d(const PackedLayout& layout, const float* d, std::byte* out) {
  if (layout.wide_d) {
    std::memcpy(out, d, sizeof(float) * kTileRows);
  } else {
    uint16_t half[kTileRows];
    for (int r = 0; r < kTileRows; ++r) half[r] = f32_to_f16(d[r]);
    std::memcpy(out, half, sizeof(half));
  }
  return out + layout.d_bytes();
}

std::byte* put_super(const PackedLayout& layout, const Stage& stage, int64_t units, std::byte* out) {
  for (int64_t i = 0; i < layout.d_count(units); ++i) out = put_d(layout, stage.d[i], out);
  if (layout.has_min)
    for (int64_t i = 0; i < layout.d_count(units); ++i) out = put_d(layout, stage.dmin[i], out);
  if (layout.has_scales) {
    const size_t bytes = static_cast<size_t>(units * layout.groups * kTileRows);
    std::memcpy(out, stage.scale, bytes);
    out += bytes;
    if (layout.has_min) {
      std::memcpy(out, stage.min, bytes);
      out += bytes;
    }
  }
  for (int64_t u = 0; u < units; ++u, out += layout.unit_bytes()) {
    uint8_t vec[8][64];
    for (int j = 0; j < 8; ++j)
      for (int r = 0; r < kTileRows; ++r) std::memcpy(&vec[j][4 * r], &stage.code[r][u * kUnit + 4 * j], 4);
    put_unit(layout.bits, vec, reinterpret_cast<uint8_t*>(out));
  }
  return out;
}

}  // namespace

void put_unit(int bits, const uint8_t (&vec)[8][64], uint8_t* out) {
  if (bits == 8) {
    std::memcpy(out, vec, sizeof(vec));
    return;
  }
  int shift = 0;
  if (bits >= 4) {
    for (int i = 0; i < 4; ++i, out += 64)
      for (int b = 0; b < 64; ++b) out[b] = static_cast<uint8_t>((vec[i][b] & 15) | vec[i + 4][b] << 4);
    shift = 4;
  }
  if (bits == 2 || bits == 3 || bits == 6) {
    for (int i = 0; i < 2; ++i, out += 64)
      for (int b = 0; b < 64; ++b) {
        const int low = (vec[i][b] >> shift & 3) | (vec[i + 2][b] >> shift & 3) << 2;
        const int high = (vec[i + 4][b] >> shift & 3) << 4 | (vec[i + 6][b] >> shift & 3) << 6;
        out[b] = static_cast<uint8_t>(low | high);
      }
    shift += 2;
  }
  if (bits == 3 || bits == 5) {
    for (int b = 0; b < 64; ++b) {
      int sum = 0;
      for (int j = 0; j < 8; ++j) sum |= (vec[j][b] >> shift & 1) << j;
      out[b] = static_cast<uint8_t>(sum);
    }
  }
}

std::optional<PackedLayout> packed_layout(const QuantInfo& info, int64_t cols) {
  const AffineShape& a = info.affine;
  if (info.family != Family::affine || info.block % kUnit != 0 || kSuper % info.block != 0)
    return std::nullopt;
  if (a.bits < 1 || a.bits > 8 || (a.group != 16 && a.group % kUnit != 0)) return std::nullopt;
  if ((a.has_scales && a.group > kUnit) || (a.has_min && a.zero != 0)) return std::nullopt;
  PackedLayout layout;
  layout.bits = a.bits == 1 ? 2 : a.bits == 7 ? 8 : a.bits;
  layout.groups = a.group == 16 ? 2 : 1;
  layout.zero = a.zero;
  layout.has_min = a.has_min;
  layout.has_scales = a.has_scales;
  layout.wide_d = a.wide_d;
  layout.d_units = static_cast<int>(info.block) / kUnit;
  layout.cols = cols;
  return layout;
}

void pack_tile_reference(const PackTile& job, int rows) {
  const QuantInfo& info = *job.info;
  const PackedLayout& layout = *job.layout;
  Stage stage{};
  auto* out = reinterpret_cast<std::byte*>(job.out);
  for (int64_t u = 0; u < layout.units(); u += kSuperUnits) {
    const int64_t units = std::min<int64_t>(kSuperUnits, layout.units() - u);
    const size_t offset = static_cast<size_t>(u * kUnit / info.block) * info.bytes;
    for (int r = 0; r < rows; ++r)
      stage_row(info, layout, job.rows + static_cast<size_t>(r) * job.row_bytes + offset, units, r, stage);
    out = put_super(layout, stage, units, out);
  }
}

}  // namespace quern::cpu
