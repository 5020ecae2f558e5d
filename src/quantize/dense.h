// Dense f32 linear algebra for the GPTQ solver: products, sums of outer products, a triangular factor. Every
// element is summed in an order that depends on neither threads nor how the work is cut.
#pragma once

#include <cstdint>
#include <vector>

#include "core/buffer.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "quantize/dense_kernels.h"

namespace quern {

/// Element (r, c) is data[r · row + c · col].
struct Strided {
  const float* data = nullptr;
  int64_t row = 0, col = 0;
};

/// One thread's working memory.
struct DenseScratch {
  std::vector<float> a, b;
};

/// out += sign · a · b, where a is rows × depth, b depth × cols, and out has rows of `stride` floats. With
/// `upper` only elements (r, c) with c ≥ r change, so that the memory below them can hold something else.
struct Product {
  int64_t rows = 0, cols = 0, depth = 0;
  Strided a, b;
  float sign = 1;
  float* out = nullptr;
  int64_t stride = 0;
  bool upper = false;
};
void multiply_add(const DenseKernels& kernels, DenseScratch& scratch, const Product& product);

/// A square matrix in memory of its own.
class SquareMatrix {
 public:
  SquareMatrix() = default;
  /// Zeros. resource_exhausted when there is no such memory.
  static Result<SquareMatrix> create(int64_t size);

  int64_t size() const { return size_; }
  float* row(int64_t r) { return memory_.as<float>() + r * size_; }
  const float* row(int64_t r) const { return memory_.as<float>() + r * size_; }
  float& at(int64_t r, int64_t c) { return row(r)[c]; }
  float at(int64_t r, int64_t c) const { return row(r)[c]; }

 private:
  Buffer memory_;
  int64_t size_ = 0;
};

/// Dense algebra with the machine's best kernels on some threads. One job at a time.
class Dense {
 public:
  /// threads ≤ 0: physical cores. Fails where QUERN_FORCE_ISA names what the CPU does not have.
  static Result<std::unique_ptr<Dense>> create(int threads);

  const DenseKernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }
  DenseScratch& scratch(int thread) { return scratch_[static_cast<size_t>(thread)]; }

  /// The upper triangle of `sum` += Σ_r x_r x_rᵀ over `count` rows of sum.size() floats, `stride` apart.
  void add_outer_products(SquareMatrix& sum, const float* x, int64_t count, int64_t stride);

  /// The upper triangle of `m` (symmetric; what is below it is left alone) becomes R, upper triangular, with
  /// m = R · Rᵀ. False when m is not positive definite; then its upper triangle means nothing.
  bool factor_upper(SquareMatrix& m);

 private:
  Dense(const DenseKernels& kernels, int threads);

  const DenseKernels& kernels_;
  ThreadPool pool_;
  std::vector<DenseScratch> scratch_;
};

}  // namespace quern
