// Random numbers that are functions of (seed, index), so that a draw can be repeated at any time.
#pragma once

#include <cstdint>

namespace quern {

/// splitmix64's output function: a bijection that scatters neighbouring inputs.
inline uint64_t scatter(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Uniform in [0, 1), with 53 random bits.
inline double uniform(uint64_t seed, uint64_t index) {
  return static_cast<double>(scatter(scatter(seed) ^ scatter(~index)) >> 11) * 0x1p-53;
}

}  // namespace quern
