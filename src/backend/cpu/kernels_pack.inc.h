// Sixteen whole rows as a file's blocks hold them, taken apart as BlockFields describe it: 16 bytes of every
// row are transposed into four vectors of words, once for all runs of codes that lie in them, and what is
// left is shifts of whole vectors. `expand_rows` makes bytes of them, which a product can read at once
// (kernels_affine.inc.h); `pack_tile` makes a tile (packed.h) of those, pack_tile_reference's bit for bit.

using B = V::B;
constexpr int kPartBytes = 4 * kLanes;  // of a 64-byte code vector

/// The runs of a block, by the bytes that they lie in.
struct SharedRuns {
  uint16_t at = 0;
  uint8_t count = 0;
  uint8_t run[8];  // bits at eight places of a byte at most
  uint8_t shift[8];
};
struct RunPlan {
  SharedRuns of[16];
  int count = 0;
};

RunPlan plan_runs(const BlockFields::Run* runs, int count) {
  RunPlan plan;
  for (int r = 0; r < count; ++r) {
    int i = 0;
    while (i < plan.count && plan.of[i].at != runs[r].at) ++i;
    plan.count = std::max(plan.count, i + 1);
    SharedRuns& shared = plan.of[i];
    shared.at = runs[r].at;
    shared.run[shared.count] = static_cast<uint8_t>(r);
    shared.shift[shared.count++] = runs[r].shift;
  }
  return plan;
}

/// Bits of codes, kWidth of them from bit kAt of a code on, of the rows' blocks at `block`: run r's four
/// vectors go to out + 256 r, above the lower bits that are there.
template <int kWidth, int kAt>
QUERN_INLINE void expand_bits(const RunPlan& plan, const uint8_t* block, int64_t stride, uint8_t flip,
                              uint8_t* out) {
  constexpr int kMask = (1 << kWidth) - 1;
  for (int i = 0; i < plan.count; ++i) {
    const SharedRuns& shared = plan.of[i];
    B word[4];
    V::load_words(block + shared.at, stride, word);
    for (int k = 0; k < shared.count; ++k) {
      uint8_t* to = out + 256 * shared.run[k];
      QUERN_UNROLL for (int j = 0; j < 4; ++j) {
        B v = kWidth == 8 ? V::invert(word[j], flip) : V::shift_right_and(word[j], shared.shift[k], kMask);
        if constexpr (kAt > 0)
          v = V::either(V::load_bytes(to + 64 * j), V::template shift_and<-kAt>(v, kMask << kAt));
        V::store_bytes(to + 64 * j, v);
      }
    }
  }
}

/// How a format's codes are cut: the low bits and the rest.
template <int kBits>
struct Cut {
  static constexpr int kLow = kBits == 8 ? 8 : kBits >= 4 ? 4 : 2;
  static constexpr int kHigh = kBits - kLow;
};

/// What reading a format's rows needs beside them: made once for a tile.
template <int kBits>
struct RowReader {
  const PackTile& job;
  RunPlan low, high;

  explicit RowReader(const PackTile& tile)
      : job(tile),
        low(plan_runs(tile.info->fields->low, static_cast<int>(tile.info->block) / 16)),
        high(plan_runs(tile.info->fields->high,
                       Cut<kBits>::kHigh > 0 ? static_cast<int>(tile.info->block) / 16 : 0)) {}

  /// The codes of `units` units from the rows' blocks at `rows`: one byte each, eight vectors a unit.
  void expand(const uint8_t* rows, int units, uint8_t* out) const {
    const auto stride = static_cast<int64_t>(job.row_bytes);
    const int block_units = static_cast<int>(job.info->block) / kUnit;
    for (int part = 0; part < kParts; ++part) {
      const uint8_t* block = rows + part * kLanes * stride;
      uint8_t* to = out + part * kPartBytes;
      for (int first = 0; first < units;
           first += block_units, block += job.info->bytes, to += 512 * block_units) {
        expand_bits<Cut<kBits>::kLow, 0>(low, block, stride, job.info->fields->flip, to);
        if constexpr (Cut<kBits>::kHigh > 0)
          expand_bits<Cut<kBits>::kHigh, Cut<kBits>::kLow>(high, block, stride, 0, to);
      }
    }
  }
};

/// One plane of kWidth bits, from bit kAt of a unit's codes on.
template <int kWidth, int kAt>
QUERN_INLINE uint8_t* pack_plane(const B (&code)[8], uint8_t* out) {
  if constexpr (kWidth == 8) {
    QUERN_UNROLL for (int j = 0; j < 8; ++j) V::store_bytes(out + 64 * j, code[j]);
    return out + 512;
  }
  constexpr int kVectors = kWidth;  // of the plane; vector i holds those of code i, i + kVectors, …
  constexpr int kMask = (1 << kWidth) - 1;
  QUERN_UNROLL for (int i = 0; i < kVectors; ++i) {
    B sum = V::template shift_and<kAt>(code[i], kMask);
    if constexpr (kWidth == 4) {
      sum = V::either(sum, V::template shift_and<kAt - 4>(code[i + 4], 0xf0));
    } else if constexpr (kWidth == 2) {
      sum = V::either(sum, V::template shift_and<kAt - 2>(code[i + 2], 0x0c));
      sum = V::either(sum, V::template shift_and<kAt - 4>(code[i + 4], 0x30));
      sum = V::either(sum, V::template shift_and<kAt - 6>(code[i + 6], 0xc0));
    } else {
      sum = V::either(sum, V::template shift_and<kAt - 1>(code[1], 0x02));
      sum = V::either(sum, V::template shift_and<kAt - 2>(code[2], 0x04));
      sum = V::either(sum, V::template shift_and<kAt - 3>(code[3], 0x08));
      sum = V::either(sum, V::template shift_and<kAt - 4>(code[4], 0x10));
      sum = V::either(sum, V::template shift_and<kAt - 5>(code[5], 0x20));
      sum = V::either(sum, V::template shift_and<kAt - 6>(code[6], 0x40));
      sum = V::either(sum, V::template shift_and<kAt - 7>(code[7], 0x80));
    }
    V::store_bytes(out + 64 * i, sum);
  }
  return out + 64 * kVectors;
}

/// The planes of `units` units, from bytes.
template <int kBits>
void pack_codes(const uint8_t* bytes, int units, uint8_t* out) {
  for (int u = 0; u < units; ++u, bytes += 512, out += 64 * kBits) {
    for (int part = 0; part < kParts; ++part) {
      B code[8];
      QUERN_UNROLL for (int j = 0; j < 8; ++j) code[j] = V::load_bytes(bytes + 64 * j + part * kPartBytes);
      uint8_t* to = pack_plane<Cut<kBits>::kLow, 0>(code, out + part * kPartBytes);
      if constexpr (Cut<kBits>::kHigh > 0) pack_plane<Cut<kBits>::kHigh, Cut<kBits>::kLow>(code, to);
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

/// Bytes of a row's `units` units in the file.
QUERN_INLINE size_t super_row_bytes(const PackTile& job, int units) {
  return static_cast<size_t>(units * kUnit) / job.info->block * job.info->bytes;
}

template <int kBits>
void pack_tile_bits(const PackTile& job) {
  const PackedLayout& layout = *job.layout;
  const RowReader<kBits> reader(job);
  alignas(64) uint8_t codes[kSuperUnits * 512];
  const auto* rows = reinterpret_cast<const uint8_t*>(job.rows);
  uint8_t* out = job.out;
  for (int64_t u = 0; u < layout.units(); u += kSuperUnits) {
    const int units = static_cast<int>(std::min<int64_t>(kSuperUnits, layout.units() - u));
    const size_t bytes = super_row_bytes(job, units);
    prefetch_rows(job, rows, u + 2 * kSuperUnits, bytes);
    out = pack_header(job, rows, units, out);
    reader.expand(rows, units, codes);
    pack_codes<kBits>(codes, units, out);
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

// Grouped matrices (grouped.h): the words of 16 rows lie side by side, so a vector takes one input's codes of
// all of them, wherever in the order of inputs that is.

/// The codes of one input, each in the lowest bits of its row's word; `words` are the first row's.
template <int kBits>
QUERN_INLINE B grouped_code(const uint8_t* words, int64_t stride, int64_t k) {
  const int64_t bit = k * kBits;
  const int shift = static_cast<int>(bit % 32);
  const uint8_t* at = words + bit / 32 * stride;
  B code = V::shift_words_right(V::load_bytes(at), shift);
  if constexpr (kBits == 3)
    if (shift > 29) code = V::either(code, V::shift_words_left(V::load_bytes(at + stride), 32 - shift));
  return V::and_words(code, (1u << kBits) - 1);
}

/// The code vectors of one unit, from the inputs in its slots.
template <int kBits>
QUERN_INLINE void load_grouped(const uint8_t* words, int64_t stride, const int32_t* source, int64_t first,
                               B (&v)[8]) {
  for (int j = 0; j < 8; ++j) {
    B sum = V::and_words(V::load_bytes(words), 0);
    QUERN_UNROLL for (int i = 0; i < 4; ++i) {
      const int64_t k = source != nullptr ? source[4 * j + i] : first + 4 * j + i;
      if (k < 0) continue;  // an empty slot
      sum = V::either(sum, V::shift_words_left(grouped_code<kBits>(words, stride, k), 8 * i));
    }
    v[j] = sum;
  }
}

template <int kBits>
uint8_t* pack_grouped_unit(const PackGrouped& job, int64_t first, uint8_t* out) {
  const auto* words = reinterpret_cast<const uint8_t*>(job.matrix->codes) + 4 * job.first;
  const int64_t stride = 4 * job.matrix->rows;
  const int32_t* source = job.source != nullptr ? job.source + first : nullptr;
  for (int part = 0; part < kParts; ++part) {
    B v[8];
    load_grouped<kBits>(words + part * kPartBytes, stride, source, first, v);
    uint8_t* to = pack_plane<Cut<kBits>::kLow, 0>(v, out + part * kPartBytes);
    if constexpr (Cut<kBits>::kHigh > 0) pack_plane<Cut<kBits>::kHigh, Cut<kBits>::kLow>(v, to);
  }
  return out + 64 * kBits;
}

template <int kBits>
void pack_grouped_bits(const PackGrouped& job) {
  const PackedLayout& layout = job.plan->layout;
  const auto* next = reinterpret_cast<const uint8_t*>(job.matrix->codes) + 4 * (job.first + kTileRows);
  const int64_t stride = 4 * job.matrix->rows, words = job.matrix->code_words();
  uint8_t* out = job.out;
  for (int64_t u = 0; u < layout.units(); ++u) {
    if (u % kSuperUnits == 0)
      out = put_grouped_header(job, u, std::min<int64_t>(kSuperUnits, layout.units() - u), out);
    // The next tile's words: every row of words is a page of its own, or more.
    for (int64_t j = u * kBits; j < std::min(words, (u + 1) * kBits); ++j)
      __builtin_prefetch(next + j * stride + 63);
    out = pack_grouped_unit<kBits>(job, u * kUnit, out);
  }
}

void pack_grouped(const PackGrouped& job) {
  switch (job.matrix->bits) {
    case 2:
      return pack_grouped_bits<2>(job);
    case 3:
      return pack_grouped_bits<3>(job);
    case 4:
      return pack_grouped_bits<4>(job);
    default:
      return pack_grouped_bits<8>(job);
  }
}
