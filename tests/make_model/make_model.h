// Writes a random-weight model, for measuring speed and for comparing with other programs.
#pragma once

#include <optional>
#include <string>

#include "core/result.h"
#include "make_model/recipe.h"
#include "make_model/shape.h"

namespace quern::make_model {

struct Options {
  std::string shape;
  std::string out;
  std::string type = "F16";
  std::string vocabulary;  // a GGUF file; empty: made up
  std::optional<int64_t> vocabulary_size;
  std::optional<int64_t> layers;
  uint64_t seed = 1;
  bool distinct = false;
  bool tied = false;
  double scale = 1;
  bool old = false;  // a file as of 2023: GGUF v2, without the metadata that came later
};

struct Summary {
  size_t tensors;
  int64_t parameters;
  uint64_t bytes;  // of the tensors
};

/// Matrices N(0, scale² / cols), norms 1 + 0.1 · N(0, 1), biases 0.1 · N(0, 1). The same options give the
/// same file, on any number of threads; the numbers do not depend on the type.
Result<Summary> make_model(const Options& options);

}  // namespace quern::make_model
