// The eight 6-bit scales and minimums that Q4_K and Q5_K pack into 12 bytes:
//   byte j     (0–3): scale[j] in bits 0–5, bits 4–5 of scale[j + 4] in bits 6–7
//   byte 4 + j (0–3): min[j] in bits 0–5, bits 4–5 of min[j + 4] in bits 6–7
//   byte 8 + j (0–3): bits 0–3 of scale[j + 4] in bits 0–3, of min[j + 4] in bits 4–7
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace quern {

struct ScaleAndMin {
  uint8_t scale;
  uint8_t min;
};

/// Group g in [0, 8).
inline ScaleAndMin get_scale6(const uint8_t (&packed)[12], int g) {
  if (g < 4) return {static_cast<uint8_t>(packed[g] & 63), static_cast<uint8_t>(packed[g + 4] & 63)};
  return {static_cast<uint8_t>((packed[g + 4] & 15) | packed[g - 4] >> 6 << 4),
          static_cast<uint8_t>(packed[g + 4] >> 4 | packed[g] >> 6 << 4)};
}

/// All groups of 16 packed scales that lie `stride` bytes apart: scale[g][r], min[g][r]. In words, so that
/// compilers vectorize it.
inline void get_scales6(const std::byte* packed, size_t stride, int8_t (*scale)[16], uint8_t (*min)[16]) {
  uint32_t s[16], m[16], both[16];  // bytes 0–3, 4–7, 8–11
  for (int r = 0; r < 16; ++r, packed += stride) {
    std::memcpy(&s[r], packed, 4);
    std::memcpy(&m[r], packed + 4, 4);
    std::memcpy(&both[r], packed + 8, 4);
  }
  for (int j = 0; j < 4; ++j) {
    const int at = 8 * j;
    for (int r = 0; r < 16; ++r) scale[j][r] = static_cast<int8_t>(s[r] >> at & 63);
    for (int r = 0; r < 16; ++r) min[j][r] = static_cast<uint8_t>(m[r] >> at & 63);
    for (int r = 0; r < 16; ++r)
      scale[j + 4][r] = static_cast<int8_t>((both[r] >> at & 15) | (s[r] >> at & 192) >> 2);
    for (int r = 0; r < 16; ++r)
      min[j + 4][r] = static_cast<uint8_t>((both[r] >> at >> 4 & 15) | (m[r] >> at & 192) >> 2);
  }
}

/// Into zeroed bytes; scale and min below 64.
inline void put_scale6(uint8_t (&packed)[12], int g, ScaleAndMin value) {
  const auto put = [&](int byte, int bits) { packed[byte] = static_cast<uint8_t>(packed[byte] | bits); };
  if (g < 4) {
    put(g, value.scale);
    put(g + 4, value.min);
  } else {
    put(g + 4, (value.scale & 15) | (value.min & 15) << 4);
    put(g - 4, value.scale >> 4 << 6);
    put(g, value.min >> 4 << 6);
  }
}

}  // namespace quern
