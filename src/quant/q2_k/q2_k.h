// Q2_K: 256 weights in 84 bytes, 2.625 bits a weight. w = d · scale · q − dmin · min, scale and min per 16
// weights.
#pragma once

#include <cstdint>

namespace quern::q2_k {

struct Block {
  uint8_t scales[16];  // group g: scale in bits 0–3, min in bits 4–7
  uint8_t qs[64];      // byte 32h + l: q[128h + l], q[128h + 32 + l], q[128h + 64 + l], q[128h + 96 + l], two
                   // bits each, lowest first
  uint16_t d;     // f16
  uint16_t dmin;  // f16
};
static_assert(sizeof(Block) == 84);

}  // namespace quern::q2_k
