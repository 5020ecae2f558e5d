// Rotary position embedding: the frequencies and the magnitude that Backend::rope wants, for every way in
// which models stretch their context.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quern::nn {

struct RopeScaling {
  int64_t rotated = 0;  // even
  double base = 10000;
  /// Positions are divided by this (linear, and the interpolated part of YaRN).
  double factor = 1;
  /// YaRN (arXiv 2309.00071): high frequencies keep their speed, low ones are divided by `factor`.
  bool yarn = false;
  double original_context = 0;  // for YaRN: the context before stretching
  double beta_fast = 32,
         beta_slow = 1;  // turns within it: more than the first are kept, fewer than the second divided
  /// One divisor per frequency (Llama 3.1's rope_freqs, long-rope's long or short factors); empty: all 1.
  std::span<const float> divisors;
  /// Multiplies cos and sin (long-rope's attention factor).
  double magnitude = 1;
};

struct RopeTable {
  std::vector<float> frequency;  // rotated / 2 values: angle(i) = position / frequency[i]
  float magnitude = 1;
};

RopeTable rope_table(const RopeScaling& scaling);

}  // namespace quern::nn
