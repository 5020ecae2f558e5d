// Q5_K: 256 weights in 176 bytes, 5.5 bits a weight. w = d · scale · q − dmin · min, scale and min per 32
// weights.
#pragma once

#include <cstdint>

namespace quern::q5_k {

struct Block {
  uint16_t d;          // f16
  uint16_t dmin;       // f16
  uint8_t scales[12];  // quant/scales6.h
  uint8_t qh[32];      // bit i of byte l: bit 4 of q[32i + l]
  uint8_t qs[128];  // byte 32i + l: bits 0–3 of q[64i + l] in bits 0–3, of q[64i + 32 + l] in bits 4–7
};
static_assert(sizeof(Block) == 176);

}  // namespace quern::q5_k
