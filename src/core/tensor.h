// A stored tensor, as a file holds it: a view that does not own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace quern {

struct GroupedMatrix;  // quant/grouped.h

struct RawTensor {
  std::string name;
  DType dtype = DType::F32;
  /// Outermost dimension first, as PyTorch prints it (GGUF files store the reverse): a matrix is {rows, cols}
  /// and computes y[rows] = W · x[cols]; an expert stack is {experts, rows, cols}.
  std::vector<int64_t> shape;
  /// Rows one after another, each a whole number of the type's blocks.
  std::span<const std::byte> data;
  /// Of DType::Grouped alone, and never null there: how the matrix is stored (`data` are its codes). Whoever
  /// made the tensor owns it.
  const GroupedMatrix* grouped = nullptr;

  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  /// Product of all dimensions but the innermost.
  int64_t rows() const {
    int64_t n = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
    return n;
  }
  int64_t elements() const { return rows() * cols(); }
};

}  // namespace quern
