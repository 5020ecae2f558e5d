#include "quantize/dense.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/isa.h"
#include "core/system.h"

namespace quern {
namespace {

// Packed pieces of a product: a's stays in a core's L2, of b's a strip as wide as a tile in its L1.
constexpr int64_t kDepth = 256, kRows = 144, kCols = 512;
// What one thread takes of a large matrix.
constexpr int64_t kBlock = 288;
// Columns of a triangular factor that are finished before the rest hears of them.
constexpr int64_t kPanel = 128;

/// Strips of `width` columns, each depth × width, the last filled with zeros. (Of a's transpose: strips of
/// rows.)
void pack(const Strided& m, int64_t depth, int64_t cols, int width, std::vector<float>& out) {
  const int64_t strips = (cols + width - 1) / width;
  out.assign(static_cast<size_t>(strips * width * depth), 0);
  float* to = out.data();
  for (int64_t first = 0; first < cols; first += width, to += width * depth) {
    const int64_t n = std::min<int64_t>(width, cols - first);
    const float* from = m.data + first * m.col;
    if (m.col == 1) {
      for (int64_t k = 0; k < depth; ++k) std::copy_n(from + k * m.row, n, to + k * width);
    } else {
      for (int64_t c = 0; c < n; ++c)
        for (int64_t k = 0; k < depth; ++k) to[k * width + c] = from[k * m.row + c * m.col];
    }
  }
}

/// Tiles of packed rows [row, row + rows) by packed columns [col, col + cols).
void run_tiles(const DenseKernels& kernels, const DenseScratch& scratch, const Product& p, int64_t row,
               int64_t rows, int64_t col, int64_t cols, int64_t depth) {
  std::array<float, kMaxTileRows * kMaxTileCols> edge;
  for (int64_t c = 0; c < cols; c += kernels.cols) {
    const float* b = scratch.b.data() + c * depth;
    for (int64_t r = 0; r < rows; r += kernels.rows) {
      const float* a = scratch.a.data() + r * depth;
      const int64_t first_row = row + r, first_col = col + c;
      if (p.upper && first_col + kernels.cols <= first_row) continue;
      const int64_t last_row = std::min<int64_t>(rows - r, kernels.rows) + first_row;
      const int64_t last_col = std::min<int64_t>(cols - c, kernels.cols) + first_col;
      const bool whole = last_row - first_row == kernels.rows && last_col - first_col == kernels.cols;
      if (whole && (!p.upper || first_col >= last_row)) {
        kernels.tile(depth, a, b, p.sign, p.out + first_row * p.stride + first_col, p.stride);
        continue;
      }
      edge.fill(0);
      kernels.tile(depth, a, b, p.sign, edge.data(), kernels.cols);
      for (int64_t i = first_row; i < last_row; ++i)
        for (int64_t j = p.upper ? std::max(first_col, i) : first_col; j < last_col; ++j)
          p.out[i * p.stride + j] +=
              edge[static_cast<size_t>((i - first_row) * kernels.cols + j - first_col)];
    }
  }
}

/// m[0, n) in place becomes R with R · Rᵀ = m; upper triangles, rows `stride` apart.
bool factor_small(float* m, int64_t n, int64_t stride) {
  for (int64_t j = n - 1; j >= 0; --j) {
    float* row = m + j * stride;
    double pivot = row[j];
    for (int64_t k = j + 1; k < n; ++k) pivot -= static_cast<double>(row[k]) * row[k];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    row[j] = static_cast<float>(std::sqrt(pivot));
    for (int64_t i = 0; i < j; ++i) {
      float* other = m + i * stride;
      double sum = other[j];
      for (int64_t k = j + 1; k < n; ++k) sum -= static_cast<double>(other[k]) * row[k];
      other[j] = static_cast<float>(sum / row[j]);
    }
  }
  return true;
}

}  // namespace

void multiply_add(const DenseKernels& kernels, DenseScratch& scratch, const Product& p) {
  for (int64_t col = 0; col < p.cols; col += kCols) {
    const int64_t cols = std::min(kCols, p.cols - col);
    for (int64_t k = 0; k < p.depth; k += kDepth) {
      const int64_t depth = std::min(kDepth, p.depth - k);
      pack({p.b.data + k * p.b.row + col * p.b.col, p.b.row, p.b.col}, depth, cols, kernels.cols, scratch.b);
      for (int64_t row = 0; row < p.rows; row += kRows) {
        const int64_t rows = std::min(kRows, p.rows - row);
        if (p.upper && col + cols <= row) break;
        pack({p.a.data + row * p.a.row + k * p.a.col, p.a.col, p.a.row}, depth, rows, kernels.rows,
             scratch.a);
        run_tiles(kernels, scratch, p, row, rows, col, cols, depth);
      }
    }
  }
}

Result<SquareMatrix> SquareMatrix::create(int64_t size) {
  SquareMatrix m;
  m.size_ = size;
  QUERN_TRY(m.memory_, Buffer::allocate(static_cast<size_t>(size * size) * sizeof(float)));
  return m;
}

Dense::Dense(const DenseKernels& kernels, int threads)
    : kernels_(kernels), pool_(threads), scratch_(static_cast<size_t>(threads)) {}

Result<std::unique_ptr<Dense>> Dense::create(int threads) {
  QUERN_TRY(const DenseKernels* kernels, choose_dense_kernels());
  return std::unique_ptr<Dense>(new Dense(*kernels, threads > 0 ? threads : physical_cores()));
}

void Dense::add_outer_products(SquareMatrix& sum, const float* x, int64_t count, int64_t stride) {
  const int64_t n = sum.size(), blocks = (n + kBlock - 1) / kBlock;
  pool_.for_parts(blocks * (blocks + 1) / 2, [&](int thread, int64_t part) {
    int64_t i = 0;
    while (part >= blocks - i) part -= blocks - i++;
    const int64_t row = i * kBlock, col = (i + part) * kBlock;
    multiply_add(kernels_, scratch(thread),
                 {.rows = std::min(kBlock, n - row),
                  .cols = std::min(kBlock, n - col),
                  .depth = count,
                  .a = {x + row, 1, stride},
                  .b = {x + col, stride, 1},
                  .out = sum.row(row) + col,
                  .stride = n,
                  .upper = part == 0});
  });
}

// From the last panel of columns to the first: with the panel's own triangle D, the rows P above it become
// P · D⁻ᵀ, and what lies left of them loses P · Pᵀ.
bool Dense::factor_upper(SquareMatrix& m) {
  const int64_t n = m.size();
  std::vector<float> transposed(static_cast<size_t>(kPanel * kPanel));
  for (int64_t first = (n - 1) / kPanel * kPanel; first >= 0; first -= kPanel) {
    const int64_t width = std::min(kPanel, n - first);
    float* triangle = m.row(first) + first;
    if (!factor_small(triangle, width, n)) return false;
    for (int64_t r = 0; r < width; ++r)
      for (int64_t c = r; c < width; ++c)
        transposed[static_cast<size_t>(c * kPanel + r)] = triangle[r * n + c];
    pool_.parallel_for(first, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        float* row = m.row(r) + first;
        for (int64_t c = width - 1; c >= 0; --c) {
          row[c] /= transposed[static_cast<size_t>(c * kPanel + c)];
          kernels_.add_scaled(row, transposed.data() + c * kPanel, -row[c], c);
        }
      }
    });
    const int64_t blocks = (first + kBlock - 1) / kBlock;
    pool_.for_parts(blocks * (blocks + 1) / 2, [&](int thread, int64_t part) {
      int64_t i = 0;
      while (part >= blocks - i) part -= blocks - i++;
      const int64_t row = i * kBlock, col = (i + part) * kBlock;
      multiply_add(kernels_, scratch(thread),
                   {.rows = std::min(kBlock, first - row),
                    .cols = std::min(kBlock, first - col),
                    .depth = width,
                    .a = {m.row(row) + first, n, 1},
                    .b = {m.row(col) + first, 1, n},
                    .sign = -1,
                    .out = m.row(row) + col,
                    .stride = n,
                    .upper = part == 0});
    });
  }
  return true;
}

std::span<const DenseKernels* const> available_dense_kernels() {
  static const DenseKernels* const all[] = {
#if defined(__x86_64__)
    &dense_avx512,
    &dense_avx2,
#elif defined(__aarch64__)
    &dense_neon,
#endif
    &dense_scalar
  };
  static const size_t first = [] {  // they are in the order of what they need
    size_t i = 0;
    while (i + 1 < std::size(all) &&
           std::ranges::find(available_isas(), all[i]->name) == available_isas().end())
      ++i;
    return i;
  }();
  return std::span(all).subspan(first);
}

Result<const DenseKernels*> choose_dense_kernels() {
  QUERN_TRY(const std::string_view isa, choose_isa());
  for (const DenseKernels* kernels : available_dense_kernels())
    if (isa.starts_with(kernels->name)) return kernels;  // "neon-dotprod": nothing here needs dot products
  return available_dense_kernels().back();
}

}  // namespace quern
