// Q8_K: 256 weights in 292 bytes, 9.125 bits a weight. w = d · q; the sums serve dot products with formats
// that have minimums.
#pragma once

#include <cstdint>

namespace quern::q8_k {

struct Block {
  float d;            // f32
  int8_t qs[256];     // q
  int16_t bsums[16];  // Σq of each 16
};
static_assert(sizeof(Block) == 292);

}  // namespace quern::q8_k
