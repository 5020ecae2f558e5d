// Q3_K: 256 weights in 110 bytes, 3.4375 bits a weight. w = d · (scale − 32) · (q − 4), scale per 16 weights.
#pragma once

#include <cstdint>

namespace quern::q3_k {

struct Block {
  uint8_t hmask[32];  // bit i of byte l: bit 2 of q[32i + l]
  uint8_t qs[64];  // byte 32h + l: bits 0–1 of q[128h + l], q[128h + 32 + l], q[128h + 64 + l], q[128h + 96 +
                   // l], lowest first
  uint8_t
      scales[12];  // scale[g] has 6 bits. Bytes 0–7: bits 0–3 of scale[g] in bits 0–3, of scale[g + 8] in
                   // bits 4–7. Byte 8 + i: bits 4–5 of scale[i], scale[i + 4], scale[i + 8], scale[i + 12]
  uint16_t d;  // f16
};
static_assert(sizeof(Block) == 110);

}  // namespace quern::q3_k
