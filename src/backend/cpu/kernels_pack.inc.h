// Tiles of 16 whole rows, packed from a file's blocks (packed.h) as BlockFields describe them: 16 bytes of
// every row are transposed into four vectors of words, and what is left is shifts of whole vectors. The
// result is pack_tile_reference's, bit for bit.

/// One plane of kWidth bits of a unit, from the runs of 16 codes that it is made of.
template <int kWidth>
QUERN_INLINE uint8_t* pack_plane(const uint8_t* rows, int64_t stride, const BlockFields::Run* runs,
                                 uint8_t flip, uint8_t* out) {
  constexpr int kMask = (1 << kWidth) - 1;
  B v[8];
  V::load_words(rows + runs[0].at, stride, v);
  V::load_words(rows + runs[1].at, stride, v + 4);
  if constexpr (kWidth == 8) {
    QUERN_UNROLL for (int j = 0; j < 8; ++j) V::store_bytes(out + 64 * j, V::invert(v[j], flip));
    return out + 512;
  }
  QUERN_UNROLL for (int j = 0; j < 8; ++j) v[j] = V::shift_right_and(v[j], runs[j / 4].shift, kMask);
  if constexpr (kWidth == 4) {
    QUERN_UNROLL for (int i = 0; i < 4; ++i)
        V::store_bytes(out + 64 * i, V::either(v[i], V::template shift_and<-4>(v[i + 4], 0xf0)));
    return out + 256;
  }
  if constexpr (kWidth == 2) {
    QUERN_UNROLL for (int i = 0; i < 2; ++i) {
      const B low = V::either(v[i], V::template shift_and<-2>(v[i + 2], 0x0c));
      const B high =
          V::either(V::template shift_and<-4>(v[i + 4], 0x30), V::template shift_and<-6>(v[i + 6], 0xc0));
      V::store_bytes(out + 64 * i, V::either(low, high));
    }
    return out + 128;
  }
  if constexpr (kWidth == 1) {
    B sum = V::either(v[0], V::template shift_and<-1>(v[1], 0x02));
    sum = V::either(sum,
                    V::either(V::template shift_and<-2>(v[2], 0x04), V::template shift_and<-3>(v[3], 0x08)));
    sum = V::either(sum,
                    V::either(V::template shift_and<-4>(v[4], 0x10), V::template shift_and<-5>(v[5], 0x20)));
    sum = V::either(sum,
                    V::either(V::template shift_and<-6>(v[6], 0x40), V::template shift_and<-7>(v[7], 0x80)));
    V::store_bytes(out, sum);
    return out + 64;
  }
  return out;
}

/// The codes of `units` units, from the rows' blocks at `rows`.
template <int kBits>
void pack_codes(const PackTile& job, const uint8_t* rows, int units, uint8_t* out) {
  constexpr int kLow = kBits == 8 ? 8 : kBits >= 4 ? 4 : 2;
  constexpr int kHigh = kBits - kLow;
  const BlockFields& fields = *job.info->fields;
  const auto stride = static_cast<int64_t>(job.row_bytes);
  const int block_units = static_cast<int>(job.info->block) / kUnit;
  for (int part = 0; part < kParts; ++part) {
    const uint8_t* block = rows + part * kLanes * stride;
    uint8_t* to = out + part * kPartBytes;
    for (int first = 0; first < units; first += block_units, block += job.info->bytes) {
      for (int u = 0; u < block_units; ++u) {
        to = pack_plane<kLow>(block, stride, fields.low + 2 * u, fields.flip, to);
        if constexpr (kHigh > 0) to = pack_plane<kHigh>(block, stride, fields.high + 2 * u, 0, to);
      }
    }
  }
}

/// One d (or dmin) of 16 rows.
QUERN_INLINE uint8_t* pack_d(const uint8_t* from, size_t stride, bool wide, uint16_t sign, uint8_t* out) {
  for (int r = 0; r < kTileRows; ++r, from += stride) {
    if (wide) {
      std::memcpy(out + 4 * r, from, 4);
    } else {
      uint16_t d;
      std::memcpy(&d, from, 2);
      d = static_cast<uint16_t>(d ^ sign);
      std::memcpy(out + 2 * r, &d, 2);
    }
  }
  return out + (wide ? 4 : 2) * kTileRows;
}

uint8_t* pack_header(const PackTile& job, const uint8_t* rows, int units, uint8_t* out) {
  const PackedLayout& layout = *job.layout;
  const BlockFields& fields = *job.info->fields;
  const int count = static_cast<int>(layout.d_count(units));
  for (int i = 0; i < count; ++i)
    out = pack_d(rows + i * job.info->bytes + fields.d, job.row_bytes, layout.wide_d, 0, out);
  const uint16_t sign = fields.negative_min ? 0x8000 : 0;
  if (layout.has_min)
    for (int i = 0; i < count; ++i)
      out = pack_d(rows + i * job.info->bytes + fields.dmin, job.row_bytes, layout.wide_d, sign, out);
  if (!layout.has_scales) return out;
  const int64_t bytes = units * layout.groups * kTileRows;
  fields.scales(reinterpret_cast<const std::byte*>(rows), job.row_bytes,
                reinterpret_cast<int8_t(*)[kTileRows]>(out),
                reinterpret_cast<uint8_t(*)[kTileRows]>(out + bytes));
  return out + (layout.has_min ? 2 : 1) * bytes;
}

/// Asks memory for all rows' superblock (of `bytes` bytes) that begins with unit `first`, two after the one
/// at `rows`: each row is a stream of its own, too many for the hardware to see them. Past the rows' end
/// these are the next tile's, which often is next.
QUERN_INLINE void prefetch_rows(const PackTile& job, const uint8_t* rows, int64_t first, size_t bytes) {
  const int64_t beyond = first - job.layout->units();
  const uint8_t* next_tile = reinterpret_cast<const uint8_t*>(job.rows) + kTileRows * job.row_bytes;
  const uint8_t* ahead =
      beyond < 0 ? rows + 2 * bytes : next_tile + static_cast<size_t>(beyond / kSuperUnits) * bytes;
  for (int r = 0; r < kTileRows; ++r)
    for (size_t i = 0; i < bytes + 63; i += 64) __builtin_prefetch(ahead + r * job.row_bytes + i);
}

template <int kBits>
void pack_tile_bits(const PackTile& job) {
  const PackedLayout& layout = *job.layout;
  const auto* rows = reinterpret_cast<const uint8_t*>(job.rows);
  uint8_t* out = job.out;
  for (int64_t u = 0; u < layout.units(); u += kSuperUnits) {
    const int units = static_cast<int>(std::min<int64_t>(kSuperUnits, layout.units() - u));
    const size_t bytes = static_cast<size_t>(units * kUnit) / job.info->block * job.info->bytes;
    prefetch_rows(job, rows, u + 2 * kSuperUnits, bytes);
    out = pack_header(job, rows, units, out);
    pack_codes<kBits>(job, rows, units, out);
    out += units * layout.unit_bytes();
    rows += bytes;
  }
}

void pack_tile(const PackTile& job) {
  switch (job.layout->bits) {
    case 2:
      return pack_tile_bits<2>(job);
    case 3:
      return pack_tile_bits<3>(job);
    case 4:
      return pack_tile_bits<4>(job);
    case 5:
      return pack_tile_bits<5>(job);
    case 6:
      return pack_tile_bits<6>(job);
    default:
      return pack_tile_bits<8>(job);
  }
}
