// exp for long rows of logits.
#pragma once

#include <bit>
#include <cstdint>

namespace quern {

/// e^−|x| for |x| ≤ 87, within 2 units in the last place; 0 for everything else, where floats end: the
/// infinities and NaN included. Compares integers, because compilers don't vectorize loops over floats'
/// comparisons (they may trap).
inline float exp_of_negative(float x) {
  constexpr uint32_t kMost = std::bit_cast<uint32_t>(87.0f);
  const uint32_t magnitude = std::bit_cast<uint32_t>(x) & 0x7fffffffu;
  const float clamped = -std::bit_cast<float>(magnitude < kMost ? magnitude : kMost);
  // −|x| = n·ln2 + r, |r| ≤ ln2 / 2; adding 1.5·2^23 rounds to the nearest integer.
  constexpr float kRound = 12582912.0f;
  const float n = (clamped * 1.44269504f + kRound) - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln2 in two parts
  // Taylor's series to r⁷: its remainder is below 2^-27 here.
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  const uint32_t value = std::bit_cast<uint32_t>(p * std::bit_cast<float>(exponent));
  const uint32_t keep = 0u - static_cast<uint32_t>(magnitude <= kMost);  // a mask, not a choice: no branch
  return std::bit_cast<float>(value & keep);
}

}  // namespace quern
