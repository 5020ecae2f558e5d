// Root-mean-square normalization with a gain.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quern::nn {

struct RmsNorm {
  std::unique_ptr<Vector> gain;
  float eps = 1e-5f;

  /// Groups of gain.size() columns are normalized on their own; out may be in.
  void operator()(Backend& backend, Tensor out, Tensor in) const { backend.rms_norm(out, in, *gain, eps); }
  explicit operator bool() const { return gain != nullptr; }
};

}  // namespace quern::nn
