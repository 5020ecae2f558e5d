// Q4_0: 32 weights in 18 bytes, 4.5 bits a weight. w = d · (q − 8).
#pragma once

#include <cstdint>

namespace quern::q4_0 {

struct Block {
  uint16_t d;      // f16
  uint8_t qs[16];  // byte j: q[j] in bits 0–3, q[j + 16] in bits 4–7
};
static_assert(sizeof(Block) == 18);

}  // namespace quern::q4_0
