// Q8_0: 32 weights in 34 bytes, 8.5 bits a weight. w = d · q.
#pragma once

#include <cstdint>

namespace quern::q8_0 {

struct Block {
  uint16_t d;     // f16
  int8_t qs[32];  // q
};
static_assert(sizeof(Block) == 34);

}  // namespace quern::q8_0
