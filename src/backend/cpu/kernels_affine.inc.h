// Tiles of the affine family (packed.h), or the rows that they would be made of, by int8 activations.
#include "backend/cpu/kernels_pack.inc.h"

/// Asks memory for what is used `V::ahead(columns)` bytes after `p`.
QUERN_INLINE void prefetch_ahead(const uint8_t* p, int64_t bytes, int columns) {
  const int ahead = V::ahead(columns);
  if (ahead == 0) return;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + ahead + i);
}

/// Code vector J of the unit (this part's rows), from its planes.
template <int kBits, int J>
QUERN_INLINE B unpack_one(const uint8_t* unit) {
  if constexpr (kBits == 8) {
    return V::flip(V::load_bytes(unit + 64 * J));
  } else if constexpr (kBits == 2 || kBits == 3) {
    const B low = V::template shift_and<2 * (J >> 1)>(V::load_bytes(unit + 64 * (J & 1)), 3);
    if constexpr (kBits == 2) return low;
    return V::either(low, V::template shift_and<J - 2>(V::load_bytes(unit + 128), 4));
  } else {
    const B low = V::template shift_and<(J < 4 ? 0 : 4)>(V::load_bytes(unit + 64 * (J & 3)), 15);
    if constexpr (kBits == 4) return low;
    if constexpr (kBits == 5)
      return V::either(low, V::template shift_and<J - 4>(V::load_bytes(unit + 256), 16));
    return V::either(low,
                     V::template shift_and<2 * (J >> 1) - 4>(V::load_bytes(unit + 256 + 64 * (J & 1)), 48));
  }
}

/// A unit's code vectors as a tile has them. kTop: no code is larger.
template <int kBits>
struct Planes {
  static constexpr int kTop = (1 << kBits) - 1;
  static constexpr int kUnitBytes = 64 * kBits;
  static constexpr bool kFromMemory = true;  // tiles are read once, in order
  template <int J>
  static QUERN_INLINE B load(const uint8_t* unit) {
    return unpack_one<kBits, J>(unit);
  }
};

/// The same, unpacked before into bytes that are in L1 now.
template <int kMost>
struct Bytes {
  static constexpr int kTop = kMost;
  static constexpr int kUnitBytes = 512;
  static constexpr bool kFromMemory = false;
  template <int J>
  static QUERN_INLINE B load(const uint8_t* unit) {
    return V::load_bytes(unit + 64 * J);
  }
};

/// A superblock's scales and minimums as f32, one vector of 16 rows per group.
struct SuperScales {
  alignas(64) float scale[2 * kSuperUnits][16];
  alignas(64) float min[2 * kSuperUnits][16];
};

/// A vector of 16 rows.
struct Rows16 {
  F part[kParts];
};

QUERN_INLINE Rows16 load_d(bool wide, const uint8_t* d) {
  Rows16 out;
  QUERN_UNROLL for (int p = 0; p < kParts; ++p) out.part[p] =
      wide ? V::load(reinterpret_cast<const float*>(d) + p * kLanes)
           : V::load_f16(reinterpret_cast<const uint16_t*>(d) + p * kLanes);
  return out;
}

/// Where the parts of a header lie (packed.h): the same for all superblocks of as many units.
struct HeaderShape {
  bool wide;
  int groups, per_d;  // groups in all, and those that share a d
  int64_t d_bytes, dmin_bytes;
  int64_t dmin, scale, min, codes;  // offsets
  HeaderShape(const PackedLayout& layout, int units)
      : wide(layout.wide_d),
        groups(units * layout.groups),
        per_d(layout.d_units * layout.groups),
        d_bytes(layout.d_bytes()),
        dmin_bytes(layout.dmin_bytes()),
        dmin(layout.d_count(units) * d_bytes),
        scale(dmin + layout.d_count(units) * dmin_bytes),
        min(scale + groups * kTileRows),
        codes(layout.header_bytes(units)) {}
};

/// out[g] = d, or d · scale[g] where there are scales.
template <bool kScales, typename Scale>
QUERN_INLINE void spread(const Rows16& d, const Scale* scale, int count, float (*out)[16]) {
  const auto one = [&](int g) __attribute__((always_inline)) {
    QUERN_UNROLL for (int p = 0; p < kParts; ++p) {
      F value = d.part[p];
      if constexpr (kScales) {
        const Scale* from = scale + g * kTileRows + p * kLanes;
        if constexpr (std::is_signed_v<Scale>)
          value = V::mul(value, V::load_i8(from));
        else
          value = V::mul(value, V::load_u8(from));
      }
      V::store(&out[g][p * kLanes], value);
    }
  };
  int g = 0;
  for (; g + 4 <= count; g += 4) {
    QUERN_UNROLL for (int i = 0; i < 4; ++i) one(g + i);
  }
  for (; g < count; ++g) one(g);
}

enum class Mins { none, dmin, zeros };

/// A superblock's scales and minimums.
template <bool kScales, Mins kMins>
void expand_header(const HeaderShape& at, const uint8_t* header, SuperScales& out) {
  const uint8_t* d = header;
  const uint8_t* dmin = header + at.dmin;
  const auto* scale = reinterpret_cast<const int8_t*>(header + at.scale);
  const uint8_t* min = header + at.min;
  for (int g = 0; g < at.groups; g += at.per_d) {
    const int count = std::min(at.groups - g, at.per_d);
    const Rows16 d1 = load_d(at.wide, d);
    spread<kScales>(d1, scale + g * kTileRows, count, out.scale + g);
    if constexpr (kMins != Mins::none) {
      Rows16 d2 = d1;
      if constexpr (kMins == Mins::zeros)
        QUERN_UNROLL for (int p = 0; p < kParts; ++p) d2.part[p] =
            V::mul(d1.part[p], V::load_u8(dmin + p * kLanes));
      else
        d2 = load_d(at.wide, dmin);
      spread<kScales>(d2, min + g * kTileRows, count, out.min + g);
    }
    d += at.d_bytes;
    dmin += at.dmin_bytes;
  }
}

using ExpandHeader = void (*)(const HeaderShape&, const uint8_t*, SuperScales&);

template <bool kScales>
ExpandHeader find_expand(const PackedLayout& layout) {
  if (layout.has_zeros) return expand_header<kScales, Mins::zeros>;
  return layout.has_min ? expand_header<kScales, Mins::dmin> : expand_header<kScales, Mins::none>;
}

/// What all superblocks of a tile have in common, and their scales one after another.
struct TileScales {
  const PackedLayout& layout;
  const ExpandHeader expand;
  const HeaderShape full;
  SuperScales values;

  explicit TileScales(const PackedLayout& l)
      : layout(l),
        expand(l.has_scales ? find_expand<true>(l) : find_expand<false>(l)),
        full(l, kSuperUnits) {}
  /// Returns where the codes begin.
  QUERN_INLINE const uint8_t* take(const uint8_t* header, int units) {
    if (units == kSuperUnits) {
      expand(full, header, values);
      return header + full.codes;
    }
    const HeaderShape rest(layout, units);
    expand(rest, header, values);
    return header + rest.codes;
  }
};

/// Code vectors from kFirst on, for each side of the rows: what V::dot takes.
template <typename Source, int kFirst>
struct CodeVectors {
  const uint8_t* unit;
  template <int J>
  QUERN_INLINE B at(int side) const {
    return Source::template load<kFirst + J>(unit + side * kPartBytes);
  }
};

/// One superblock by one panel of C columns: acc[c][16] goes on from where the superblock before left it.
template <typename Source, int kGroups, bool kMin, int C>
void dot_super(const uint8_t* codes, const SuperScales& scales, int units, const Panel& panel, int64_t first,
               float* acc) {
  constexpr int kVectors = 8 / kGroups;
  constexpr int kSides = V::sides(C);  // parts of the rows that go side by side and share the activations
  // With minimums the codes' own zero is 0 (packed.h), so that only a bias of their bytes starts the sum.
  constexpr bool kStart = !kMin || (Source::kTop == 255 && V::kBias8 != 0);
  for (int part = 0; part < kParts; part += kSides) {
    const int lane = part * kLanes;
    const uint8_t* unit = codes + part * kPartBytes;
    const int8_t* x = panel.codes + first * C * kUnit;
    const float* dx = panel.scale + first * C;
    const int32_t* start = panel.start + first * kGroups * C;
    const float* sum = kMin ? panel.scaled_sum + first * kGroups * C : nullptr;
    F f[kSides][C];
    QUERN_UNROLL for (int s = 0; s < kSides; ++s) {
      QUERN_UNROLL for (int c = 0; c < C; ++c) f[s][c] = V::load(acc + 16 * c + lane + s * kLanes);
    }
    for (int u = 0; u < units; ++u) {
      if (Source::kFromMemory && part == 0) prefetch_ahead(unit, Source::kUnitBytes, C);
      for_each<kGroups>([&](auto group) QUERN_INLINE_LAMBDA {
        constexpr int g = group;
        typename V::I sums[kSides][C];
        QUERN_UNROLL for (int c = 0; c < C; ++c) {
          QUERN_UNROLL for (int s = 0; s < kSides; ++s) sums[s][c] =
              V::broadcast(kStart ? start[g * C + c] : 0);
        }
        V::template dot<kVectors, Source::kTop>(sums, CodeVectors<Source, g * kVectors>{unit}, x + g * 16);
        QUERN_UNROLL for (int s = 0; s < kSides; ++s) {
          const F ds = V::load(&scales.scale[u * kGroups + g][lane + s * kLanes]);
          QUERN_UNROLL for (int c = 0; c < C; ++c) {
            f[s][c] = V::fma(V::from_int(sums[s][c]), V::mul(ds, V::set1(dx[c])), f[s][c]);
            if constexpr (kMin) {
              const F dm = V::load(&scales.min[u * kGroups + g][lane + s * kLanes]);
              f[s][c] = V::fnma(dm, V::set1(sum[g * C + c]), f[s][c]);
            }
          }
        }
      });
      unit += Source::kUnitBytes;
      x += C * kUnit;
      dx += C;
      start += kGroups * C;
      if constexpr (kMin) sum += kGroups * C;
    }
    QUERN_UNROLL for (int s = 0; s < kSides; ++s) {
      QUERN_UNROLL for (int c = 0; c < C; ++c) V::store(acc + 16 * c + lane + s * kLanes, f[s][c]);
    }
  }
}

using DotSuper = void (*)(const uint8_t*, const SuperScales&, int, const Panel&, int64_t, float*);

/// Of one format, for panels of 1, 2, 4 and 8 columns.
struct DotWidths {
  DotSuper width[4];
  DotSuper operator[](int columns) const { return width[std::countr_zero(static_cast<unsigned>(columns))]; }
};

template <typename Source, int kGroups, bool kMin>
constexpr DotWidths dot_widths() {
  DotWidths out{{dot_super<Source, kGroups, kMin, 1>, dot_super<Source, kGroups, kMin, 2>,
                 dot_super<Source, kGroups, kMin, 4>, nullptr}};
  if constexpr (V::kMaxPanel == 8) out.width[3] = dot_super<Source, kGroups, kMin, 8>;
  return out;
}

template <typename Source>
DotWidths find_dot(const PackedLayout& layout) {
  static constexpr DotWidths table[4] = {dot_widths<Source, 1, false>(), dot_widths<Source, 1, true>(),
                                         dot_widths<Source, 2, false>(), dot_widths<Source, 2, true>()};
  return table[2 * (layout.groups - 1) + (layout.has_min ? 1 : 0)];
}

/// Codes of kBits bits as bytes. (8 bits are bytes in the tile.)
template <int kBits>
using Unpacked = std::conditional_t<kBits == 8, Planes<8>, Bytes<kBits <= 4 ? 15 : (1 << kBits) - 1>>;

/// From this many columns on, codes are unpacked once into bytes instead of once per panel.
constexpr int kExpandColumns = 2 * V::kMaxPanel + 1;

template <int kBits>
void expand_codes(const uint8_t* codes, int units, uint8_t* out) {
  for (int u = 0; u < units; ++u, codes += 64 * kBits, out += 512) {
    prefetch_ahead(codes, 64 * kBits, kExpandColumns);
    for (int part = 0; part < kParts; ++part)
      for_each<8>([&](auto j) QUERN_INLINE_LAMBDA {
        V::store_bytes(out + 64 * j + part * kPartBytes, unpack_one<kBits, j>(codes + part * kPartBytes));
      });
  }
}

/// One superblock by all panels.
QUERN_INLINE void dot_panels(const DotWidths& dot, const AffineTiles& job, const uint8_t* codes,
                             const SuperScales& scales, int units, int64_t first, float* acc) {
  for (int p = 0; p < job.panel_count; ++p) {
    const Panel& panel = job.panels[p];
    dot[panel.width](codes, scales, units, panel, first, acc);
    acc += 16 * panel.width;
  }
}

template <int kBits>
void affine_tiles_bits(const AffineTiles& job) {
  const PackedLayout& layout = *job.layout;
  const bool expand = kBits < 8 && job.columns >= kExpandColumns;
  const DotWidths dot = expand ? find_dot<Unpacked<kBits>>(layout) : find_dot<Planes<kBits>>(layout);
  TileScales scales(layout);
  alignas(64) uint8_t bytes[kSuperUnits * 512];
  const uint8_t* super = job.tiles;
  float* acc = job.acc;
  for (int64_t t = 0; t < job.count; ++t, acc += 16 * job.columns) {
    for (int64_t u = 0; u < layout.units(); u += kSuperUnits) {
      const int units = static_cast<int>(std::min<int64_t>(kSuperUnits, layout.units() - u));
      prefetch_ahead(super, scales.full.codes, job.columns);
      const uint8_t* codes = scales.take(super, units);
      super = codes + units * layout.unit_bytes();
      if constexpr (kBits < 8) {
        if (expand) {
          expand_codes<kBits>(codes, units, bytes);
          codes = bytes;
        }
      }
      dot_panels(dot, job, codes, scales.values, units, u, acc);
    }
  }
}

/// The same sums in the same order without a tile: for weights that are not packed yet.
template <int kBits>
void affine_rows_bits(const AffineTiles& job) {
  const PackedLayout& layout = *job.layout;
  PackTile tile = *job.rows;
  const RowReader<kBits> reader(tile);
  const DotWidths dot = find_dot<Unpacked<kBits>>(layout);
  TileScales scales(layout);
  alignas(64) uint8_t header[kMostHeaderBytes], bytes[kSuperUnits * 512];
  float* acc = job.acc;
  for (int64_t t = 0; t < job.count; ++t, acc += 16 * job.columns, tile.rows += kTileRows * tile.row_bytes) {
    const auto* rows = reinterpret_cast<const uint8_t*>(tile.rows);
    for (int64_t u = 0; u < layout.units(); u += kSuperUnits) {
      const int units = static_cast<int>(std::min<int64_t>(kSuperUnits, layout.units() - u));
      const size_t row_bytes = super_row_bytes(tile, units);
      prefetch_rows(tile, rows, u + 2 * kSuperUnits, row_bytes);
      pack_header(tile, rows, units, header);
      scales.take(header, units);
      reader.expand(rows, units, bytes);
      dot_panels(dot, job, bytes, scales.values, units, u, acc);
      rows += row_bytes;
    }
  }
}

template <int kBits>
void affine_bits(const AffineTiles& job) {
  std::memset(job.acc, 0, sizeof(float) * 16 * static_cast<size_t>(job.columns * job.count));
  return job.tiles != nullptr ? affine_tiles_bits<kBits>(job) : affine_rows_bits<kBits>(job);
}

void affine_tiles(const AffineTiles& job) {
  switch (job.layout->bits) {
    case 2:
      return affine_bits<2>(job);
    case 3:
      return affine_bits<3>(job);
    case 4:
      return affine_bits<4>(job);
    case 5:
      return affine_bits<5>(job);
    case 6:
      return affine_bits<6>(job);
    default:
      return affine_bits<8>(job);
  }
}
