// A calibration text on its way through a model's layers, one layer after the other: what each matrix gets to
// see once all matrices before it are quantized.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "core/buffer.h"
#include "formats/weight_source.h"
#include "quantize/dense.h"

namespace quern {

/// Matrices of one layer (of one expert) that read the same inputs.
struct SharedInputs {
  struct Matrix {
    const RawTensor* tensor = nullptr;
    /// In: empty. Out: rows × cols floats to go on with in the tensor's place, or empty.
    Buffer weights;
  };
  std::vector<Matrix> matrices;
  SquareMatrix products;  // the upper triangle of Σ x xᵀ
  int64_t count = 0;      // inputs x; 0: an expert that no token reached
};

struct LayerWalkOptions {
  int64_t context = 512;  // tokens of a chunk
  int32_t bos = -1;       // replaces each chunk's first token
  /// Share of the work that is done, 0 to 1; false cancels.
  std::function<bool(double share)> progress;
};

/// Cuts `tokens` into chunks, each a sequence by itself (what fills no chunk at the end is left out), and
/// calls `visit` for all matrices of the layers in the order in which they run: q, k and v; the attention's
/// output; gate and up; down; expert by expert where there are such. (The router stays as it is.)
///
/// Memory: twice tokens × width floats, one layer in f32, and the products: inputs², of one `visit` at a
/// time. `backend` is one whose tensors the host can read (the CPU's). Names are a Hugging Face checkpoint's.
Result<> walk_layers(Backend& backend, Dense& dense, const WeightSource& source,
                     std::span<const int32_t> tokens, const LayerWalkOptions& options,
                     const std::function<Result<>(SharedInputs&)>& visit);

/// The matrices that `walk_layers` visits.
Result<std::vector<const RawTensor*>> layer_matrices(const WeightSource& source);

}  // namespace quern
