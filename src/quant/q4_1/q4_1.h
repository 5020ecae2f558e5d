// Q4_1: 32 weights in 20 bytes, 5 bits a weight. w = d · q + m.
#pragma once

#include <cstdint>

namespace quern::q4_1 {

struct Block {
  uint16_t d;      // f16
  uint16_t m;      // f16, the smallest weight
  uint8_t qs[16];  // byte j: q[j] in bits 0–3, q[j + 16] in bits 4–7
};
static_assert(sizeof(Block) == 20);

}  // namespace quern::q4_1
