// Packed tiles: every ISA's are the reference's, and the reference's hold the file's weights.
#include <gtest/gtest.h>

#include "backend/cpu/activations.h"
#include "backend/cpu/kernels.h"
#include "backend/test_util.h"

namespace quern::cpu {
namespace {

using namespace quern::testing;

/// Random bytes, but every scale finite (what becomes of a NaN's payload is nobody's concern).
std::vector<std::byte> random_blocks(const QuantInfo& info, size_t blocks, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(blocks * info.bytes);
  AffineBlock block;
  for (size_t b = 0; b < bytes.size(); b += info.bytes) {
    do {
      for (size_t i = 0; i < info.bytes; ++i) bytes[b + i] = static_cast<std::byte>(random());
      info.unpack(&bytes[b], block);
    } while (!std::isfinite(block.d) || !std::isfinite(block.dmin));
  }
  return bytes;
}

TEST(Pack, EveryIsaPacksAsTheReferenceDoes) {
  int formats = 0;
  for (const QuantInfo* info : all_quants()) {
    if (info->fields == nullptr) continue;
    ++formats;
    for (const int64_t blocks : {1, 2, 3, 8, 9, 17}) {
      const int64_t cols = blocks * info->block;
      const PackedLayout layout = *packed_layout(*info, cols);
      const auto bytes =
          random_blocks(*info, static_cast<size_t>(16 * blocks), static_cast<uint32_t>(blocks));
      const size_t row_bytes = bytes.size() / 16, size = static_cast<size_t>(layout.tile_bytes());
      std::vector<uint8_t> expected(size + 64, 0xa5);
      pack_tile_reference({info, &layout, bytes.data(), row_bytes, expected.data()}, kTileRows);
      for (const Kernels* kernels : available_kernels()) {
        std::vector<uint8_t> packed(size + 64, 0xa5);
        kernels->pack_tile({info, &layout, bytes.data(), row_bytes, packed.data()});
        EXPECT_EQ(packed, expected) << info->name << " " << cols << " columns, " << kernels->name;
      }
    }
  }
  EXPECT_EQ(formats, 10);  // all but those whose high bits lie apart
}

TEST(Pack, RowsOfTheFileMultiplyAsTheirTilesDo) {
  constexpr int64_t kTiles = 3;
  ThreadPool pool(1);
  for (const QuantInfo* info : all_quants()) {
    if (info->fields == nullptr) continue;
    for (const int64_t blocks : {1, 3, 9}) {
      const int64_t cols = blocks * info->block;
      const PackedLayout layout = *packed_layout(*info, cols);
      const TestMatrix m = random_matrix(*info, {kTiles * kTileRows, cols}, 4);
      std::vector<uint8_t> tiles(static_cast<size_t>(kTiles * layout.tile_bytes()) + 64);
      const size_t row_bytes = m.bytes.size() / static_cast<size_t>(kTiles * kTileRows);
      const PackTile rows{info, &layout, m.bytes.data(), row_bytes, nullptr};
      PackTile job = rows;
      job.out = tiles.data();
      for (int64_t t = 0; t < kTiles; ++t, job.out += layout.tile_bytes(), job.rows += kTileRows * row_bytes)
        pack_tile_reference(job, kTileRows);
      for (const int columns : {1, 2, 7, 8, 33}) {
        const TestTensor x = TestTensor::random(columns, cols, 5);
        for (const Kernels* kernels : available_kernels()) {
          std::vector<int> widths;
          append_widths(columns, kernels->max_panel, widths);
          Activations activations;
          const ActivationNeed need = activation_need(layout, *kernels);
          activations.quantize(*kernels, pool, x.view, nullptr, widths, std::span(&need, 1));
          const auto panels = activations.panels(0);
          const int count = static_cast<int>(panels.size());
          const auto size = static_cast<size_t>(columns) * kTileRows;
          std::vector<float> one_by_one(kTiles * size), from_tiles(kTiles * size), from_rows(kTiles * size);
          for (int64_t t = 0; t < kTiles; ++t)
            kernels->affine_tiles({&layout, tiles.data() + t * layout.tile_bytes(), nullptr, panels.data(),
                                   count, columns, one_by_one.data() + static_cast<size_t>(t) * size});
          kernels->affine_tiles(
              {&layout, tiles.data(), nullptr, panels.data(), count, columns, from_tiles.data(), kTiles});
          kernels->affine_tiles(
              {&layout, nullptr, &rows, panels.data(), count, columns, from_rows.data(), kTiles});
          const auto which = fmt::format("{} {} by {}, {}", info->name, cols, columns, kernels->name);
          EXPECT_TRUE(same_bits(from_tiles, one_by_one)) << which;
          EXPECT_TRUE(same_bits(from_tiles, from_rows)) << which;
        }
      }
    }
  }
}

/// Reads a packed tile back by what packed.h says about it.
std::vector<float> unpacked(const QuantInfo& info, const PackedLayout& layout, const uint8_t* tile) {
  std::vector<float> out(static_cast<size_t>(16 * layout.cols));
  for (int64_t u0 = 0; u0 < layout.units(); u0 += kSuperUnits) {
    const int64_t units = std::min<int64_t>(kSuperUnits, layout.units() - u0);
    const int64_t count = layout.d_count(units), groups = units * layout.groups;
    const uint8_t* dmin = tile + count * layout.d_bytes();
    const uint8_t* scale = layout.has_min ? dmin + count * layout.d_bytes() : dmin;
    const uint8_t* min = scale + groups * 16;
    const auto read_d = [&](const uint8_t* from, int64_t i) {
      float wide = 0;
      uint16_t half = 0;
      std::memcpy(&half, from + 2 * i, 2);
      if (layout.wide_d) std::memcpy(&wide, from + 4 * i, 4);
      return layout.wide_d ? wide : f16_to_f32(half);
    };
    const uint8_t* codes = tile + layout.header_bytes(units);
    const auto bits = [&](const uint8_t* plane, int width, int vectors, int j, int byte) {
      return plane[64 * (j % vectors) + byte] >> (j / vectors * width) & ((1 << width) - 1);
    };
    for (int64_t u = 0; u < units; ++u, codes += layout.unit_bytes()) {
      for (int k = 0; k < kUnit; ++k) {
        for (int r = 0; r < 16; ++r) {
          const int j = k / 4, byte = 4 * r + k % 4;
          int code = 0;
          switch (layout.bits) {
            case 2:
              code = bits(codes, 2, 2, j, byte);
              break;
            case 3:
              code = bits(codes, 2, 2, j, byte) | bits(codes + 128, 1, 1, j, byte) << 2;
              break;
            case 4:
              code = bits(codes, 4, 4, j, byte);
              break;
            case 5:
              code = bits(codes, 4, 4, j, byte) | bits(codes + 256, 1, 1, j, byte) << 4;
              break;
            case 6:
              code = bits(codes, 4, 4, j, byte) | bits(codes + 256, 2, 2, j, byte) << 4;
              break;
            default:
              code = codes[64 * j + byte];
          }
          const int64_t d = u / layout.d_units, g = u * layout.groups + (layout.groups == 2 ? k / 16 : 0);
          const float s = layout.has_scales ? static_cast<int8_t>(scale[g * 16 + r]) : 1.0f;
          const float m = layout.has_scales ? min[g * 16 + r] : 1.0f;
          const float product = read_d(tile, d * 16 + r) * s * static_cast<float>(code - layout.zero);
          out[static_cast<size_t>(r * layout.cols + (u0 + u) * kUnit + k)] =
              layout.has_min ? product - read_d(dmin, d * 16 + r) * m : product;
        }
      }
    }
    tile += layout.super_bytes(units);
  }
  return out;
}

TEST(Pack, ATileHoldsTheFilesWeights) {
  for (const QuantInfo* info : all_quants()) {
    if (info->family != Family::affine) continue;
    for (const int rows : {16, 1, 7}) {
      const int64_t cols = info->block == 32 ? 11 * 32 : 3 * 256;
      const TestMatrix m = random_matrix(*info, {rows, cols}, 5);
      const PackedLayout layout = *packed_layout(*info, cols);
      std::vector<uint8_t> tile(static_cast<size_t>(layout.tile_bytes()));
      pack_tile_reference({info, &layout, m.bytes.data(), m.bytes.size() / rows, tile.data()}, rows);
      const std::vector<float> values = unpacked(*info, layout, tile.data());
      EXPECT_TRUE(same_bits(std::span(values).first(m.exact.size()), m.exact)) << info->name << " " << rows;
    }
  }
}

}  // namespace
}  // namespace quern::cpu
