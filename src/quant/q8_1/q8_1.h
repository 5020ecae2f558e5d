// Q8_1: 32 weights in 36 bytes, 9 bits a weight. w = d · q; s = d · Σq serves dot products with formats that
// have a minimum.
#pragma once

#include <cstdint>

namespace quern::q8_1 {

struct Block {
  uint16_t d;     // f16
  uint16_t s;     // f16, d · Σq
  int8_t qs[32];  // q
};
static_assert(sizeof(Block) == 36);

}  // namespace quern::q8_1
