// The formula of the affine family (quant.h), once: what every backend's kernels compute.
#pragma once

#include "quant/quant.h"

namespace quern {

/// Groups in a block of `info`.
inline int affine_groups(const QuantInfo& info) { return static_cast<int>(info.block) / info.affine.group; }

/// w[0, info.block) of a block that was taken apart, in the reference's order of operations:
/// (d · scale) · (code − zero) − dmin · min. Equals info.decode bit for bit.
inline void affine_decode(const QuantInfo& info, const AffineBlock& block, float* out) {
  const AffineShape& shape = info.affine;
  for (int g = 0; g < affine_groups(info); ++g) {
    const float scale = block.d * static_cast<float>(block.scale[g]);
    const float min = block.dmin * static_cast<float>(block.min[g]);
    for (int k = g * shape.group; k < (g + 1) * shape.group; ++k) {
      const float product = scale * static_cast<float>(block.code[k] - shape.zero);
      out[k] = shape.has_min ? product - min : product;
    }
  }
}

}  // namespace quern
