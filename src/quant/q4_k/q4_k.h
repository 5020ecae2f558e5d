// Q4_K: 256 weights in 144 bytes, 4.5 bits a weight. w = d · scale · q − dmin · min, scale and min per 32
// weights.
#pragma once

#include <cstdint>

namespace quern::q4_k {

struct Block {
  uint16_t d;          // f16
  uint16_t dmin;       // f16
  uint8_t scales[12];  // quant/scales6.h
  uint8_t qs[128];     // byte 32i + l: q[64i + l] in bits 0–3, q[64i + 32 + l] in bits 4–7
};
static_assert(sizeof(Block) == 144);

}  // namespace quern::q4_k
