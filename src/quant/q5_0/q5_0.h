// Q5_0: 32 weights in 22 bytes, 5.5 bits a weight. w = d · (q − 16).
#pragma once

#include <cstdint>

namespace quern::q5_0 {

struct Block {
  uint16_t d;      // f16
  uint8_t qh[4];   // byte i: bit 4 of q[8i] … q[8i + 7], lowest bit first
  uint8_t qs[16];  // byte j: bits 0–3 of q[j] in bits 0–3, of q[j + 16] in bits 4–7
};
static_assert(sizeof(Block) == 22);

}  // namespace quern::q5_0
