// Q6_K: 256 weights in 210 bytes, 6.5625 bits a weight. w = d · scale · (q − 32), scale per 16 weights.
#pragma once

#include <cstdint>

namespace quern::q6_k {

struct Block {
  uint8_t
      ql[128];  // byte 64h + l (l < 64): bits 0–3 of q[128h + l] in bits 0–3, of q[128h + 64 + l] in bits 4–7
  uint8_t qh[64];  // byte 32h + l: bits 4–5 of q[128h + l], q[128h + 32 + l], q[128h + 64 + l], q[128h + 96 +
                   // l], lowest first
  int8_t scales[16];  // group g's scale
  uint16_t d;         // f16
};
static_assert(sizeof(Block) == 210);

}  // namespace quern::q6_k
