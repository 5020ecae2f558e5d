// How a block of weights becomes codes, scales and minimums: the definition, and its scalar reference. The
// encoders of every ISA (isa/) compute the same bits.
//
// Where a group of weights has a scale of its own (and a minimum), it is searched for: the group is scaled to
// y = (x − lowest) / range, or y = −x / extreme where there is no minimum; for several candidates the codes
// q = round(y · candidate) are taken and s, o solved from Σ w (y − s·q − o)² → least; the best of them takes
// its codes once more from its own s and o. A block of 256 then has one d (and dmin) for the integer scales
// of its groups; scale and minimum are rounded together, because their errors partly cancel.
//
// Weights w of the search: √(mean x²) + |x|, so that large values matter more than their number says; with
// importance, importance · √(mean x² of the block + x²), with twice the mean for blocks of 256 (llama.cpp's
// weights).
#pragma once

#include "quant/quant.h"

namespace quern {

/// Candidates are q_max + step · first … step · last, as many as a multiple of 4.
struct ScaleSearch {
  float step;
  int first;
  int last;
  int again;        // times that codes are taken from the best s and o so far
  bool reconsider;  // whether rounded scales are compared by the codes that they themselves give
};
constexpr ScaleSearch kPlainSearch = {0.2f, -5, 6, 1, false};
/// What lies far out may hardly matter, so more is tried.
constexpr ScaleSearch kImportantSearch = {0.2f, -5, 14, 4, true};
/// Where a block has one scale, nothing later makes up for a missed one.
constexpr ScaleSearch kImportantSingleSearch = {0.1f, -10, 29, 4, false};

/// Groups whose values differ by less count as constant: f16 scales end at 6e-8.
constexpr float kFlat = 1e-30f;
/// No format with an f16 scale reaches beyond this; clamping to it keeps squares finite.
constexpr float kLargest = 1e9f;
/// Added to and subtracted from x, it rounds x to the nearest integer, ties to even; |x| < 2^22.
constexpr float kRound = 0x1.8p23f;
/// Nearly equal codes say nothing about an offset; float sums have no more digits than this.
constexpr float kSolvable = 1e-5f;

/// Whether any of them is above 0. A block whose importance does not count is encoded as without.
bool importance_counts(const float* importance, size_t n);

/// `block` weights (QuantInfo::block). `importance` is null or as for QuantInfo::encode; where its products
/// sum to zero or overflow in a group, the group's weights are those without.
void fit_block(const AffineShape& shape, size_t block, const float* x, const float* importance,
               AffineBlock& out);

}  // namespace quern
