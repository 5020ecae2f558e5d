// A weight matrix with an optional bias.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace quern::nn {

struct Linear {
  std::unique_ptr<Weight> weight;
  std::unique_ptr<Vector> bias;  // may be null

  /// out = weight · in + bias, or added to out.
  void operator()(Backend& backend, Tensor out, Tensor in, bool accumulate = false) const {
    backend.matmul(out, *weight, in, bias.get(), accumulate);
  }
  /// For Backend::matmul_multi.
  MatmulTarget to(Tensor out) const { return {out, weight.get(), bias.get()}; }
  explicit operator bool() const { return weight != nullptr; }
};

}  // namespace quern::nn
