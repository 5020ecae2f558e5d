// Matmuls: inputs quantized once, tiles of 16 outputs handed out to the threads.
#include <unistd.h>

#include <algorithm>

#include "backend/cpu/cpu_backend.h"
#include "core/check.h"

namespace quern::cpu {
namespace {

/// Columns of a product taken together: every tile goes through their quantized form, which should stay in a
/// core's L2 beside it.
constexpr int64_t kMinChunk = 64;
constexpr int64_t kMaxChunk = 512;

int64_t chunk_bytes() {
  constexpr long kLeastL2 = 512 << 10;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or -1 where it is not known
#else
  constexpr long l2 = 0;
#endif
  return std::clamp(l2, kLeastL2, 4 * kLeastL2) / 2;
}

int64_t column_chunk(int64_t cols) {
  return std::clamp(chunk_bytes() / std::max<int64_t>(cols, 1) / 8 * 8, kMinChunk, kMaxChunk);
}

/// Tiles whose sums are made before they are written out: as many as leave room in L1.
int64_t tiles_at_once(int64_t columns) {
  constexpr int64_t kFloats = 2048;
  return std::max<int64_t>(1, kFloats / (columns * kTileRows));
}

void finish_tile(const float* acc, int64_t first_row, int64_t rows, const Vector* bias, bool accumulate,
                 Tensor out) {
  const float* b = bias != nullptr ? bias->host().data() + first_row : nullptr;
  for (int64_t c = 0; c < out.rows; ++c, acc += kTileRows) {
    float* to = out.data + c * out.stride + first_row;
    for (int64_t r = 0; r < rows; ++r) {
      float value = acc[r];
      if (b != nullptr) value += b[r];
      to[r] = accumulate ? to[r] + value : value;
    }
  }
}

}  // namespace

size_t CpuBackend::need_of(const CpuWeight& weight) {
  if (!weight.layout()) return 0;
  const ActivationNeed need = activation_need(*weight.layout(), kernels_, weight.order());
  const auto found = std::find(needs_.begin(), needs_.end(), need);
  if (found != needs_.end()) return static_cast<size_t>(found - needs_.begin());
  needs_.push_back(need);
  return needs_.size() - 1;
}

void CpuBackend::run_tiles(const Product& product, int64_t first, int64_t end, int thread) {
  const CpuWeight& weight = *product.weight;
  const int64_t columns = product.out.rows, most = tiles_at_once(columns);
  for (int64_t next = first; first < end; first = next) {
    next = std::min(first + most, end);
    float* acc = scratch(thread, (next - first) * columns * kTileRows);
    if (weight.layout())
      multiply_affine(product, first, next, thread, acc);
    else
      multiply_floats(product, first, next, acc);
    for (int64_t tile = first; tile < next; ++tile, acc += columns * kTileRows) {
      const int64_t row = tile * kTileRows, rows = std::min<int64_t>(kTileRows, weight.rows - row);
      finish_tile(acc, row, rows, product.bias, product.accumulate, product.out);
    }
  }
}

void CpuBackend::multiply_affine(const Product& product, int64_t first, int64_t end, int thread, float* acc) {
  const CpuWeight& weight = *product.weight;
  AffineTiles job{.layout = &*weight.layout(),
                  .panels = activations_.panels(product.need).data() + product.first_panel,
                  .panel_count = static_cast<int>(product.panel_count),
                  .columns = static_cast<int>(product.out.rows),
                  .acc = acc};
  const int64_t bytes = job.layout->tile_bytes();
  if (product.tiles != nullptr) {
    job.tiles = product.tiles + first * bytes;
    job.count = end - first;
    return kernels_.affine_tiles(job);
  }
  for (int64_t tile = first; tile < end; ++tile, job.acc += job.columns * kTileRows) {
    const PackTile rows = weight.file_rows(product.expert, tile);
    const bool keep = product.keep.matrix != nullptr && tile >= product.keep.first;
    if (!keep && weight.multiplies_from_file(tile)) {
      job.tiles = nullptr;
      job.rows = &rows;
    } else {
      uint8_t* to = keep ? product.keep.matrix + tile * bytes : tile_scratch(thread, bytes);
      weight.pack_tile(kernels_, product.expert, tile, to);
      job.tiles = to;
    }
    kernels_.affine_tiles(job);
  }
}

void CpuBackend::multiply_floats(const Product& product, int64_t first, int64_t end, float* acc) {
  const CpuWeight& weight = *product.weight;
  const int columns = static_cast<int>(product.out.rows);
  const int64_t row_bytes = weight.cols * (weight.float_dtype() == DType::F32 ? 4 : 2);
  for (int64_t row = first * kTileRows; first < end; ++first, row += kTileRows, acc += columns * kTileRows) {
    const auto rows = static_cast<int>(std::min<int64_t>(kTileRows, weight.rows - row));
    kernels_.float_tile({weight.float_dtype(), weight.float_rows(product.expert) + row * row_bytes, rows,
                         weight.cols, product.in.data, product.in.stride, columns, acc});
  }
}

void CpuBackend::run_products(std::span<Product> products) {
  int64_t tiles = 0;
  for (Product& p : products) {
    const int64_t count = tile_count(p.weight->rows), columns = p.out.rows;
    tiles += count;
    if (p.weight->layout()) p.tiles = p.weight->tiles(p.expert);
    // Here, where running out of memory is one failed step, and not on the pool's threads.
    for (int t = 0; t < pool_.size(); ++t) {
      scratch(t, std::min(count, tiles_at_once(columns)) * columns * kTileRows);
      if (p.weight->layout() && p.tiles == nullptr) tile_scratch(t, p.weight->layout()->tile_bytes());
    }
  }
  for (Product& p : products)
    if (p.weight->layout() && p.tiles == nullptr && p.weight->met(p.expert) &&
        keep_budget_.take(p.weight->matrix_bytes()))
      p.keep = p.weight->claim(p.expert);
  pool_.for_ranges(tiles, [&](int thread, int64_t begin, int64_t end) {
    for (const Product& p : products) {
      const int64_t count = tile_count(p.weight->rows);
      if (begin < count) run_tiles(p, std::max<int64_t>(begin, 0), std::min(end, count), thread);
      begin -= count;
      end -= count;
      if (end <= 0) break;
    }
  });
  for (const Product& p : products)
    if (p.keep.matrix != nullptr) p.weight->publish(p.expert);
}

void CpuBackend::matmul(Tensor out, const Weight& weight, Tensor in, const Vector* bias, bool accumulate) {
  const MatmulTarget target{out, &weight, bias, accumulate};
  matmul_multi(std::span(&target, 1), in);
}

void CpuBackend::matmul_multi(std::span<const MatmulTarget> targets, Tensor in) {
  for (const MatmulTarget& t : targets) {
    [[maybe_unused]] const auto& weight = static_cast<const CpuWeight&>(*t.weight);
    QUERN_DCHECK(t.out.rows == in.rows && t.out.cols == weight.rows && in.cols == weight.cols);
    QUERN_DCHECK(weight.experts == 1 && !weight.table_only);
    QUERN_DCHECK(t.bias == nullptr || static_cast<int64_t>(t.bias->host().size()) == weight.rows);
  }
  const int64_t chunk = column_chunk(in.cols);
  for (int64_t first = 0; first < in.rows; first += chunk) {
    const int64_t count = std::min(chunk, in.rows - first);
    const Tensor part = in.slice_rows(first, count);
    needs_.clear();
    widths_.clear();
    products_.clear();
    append_widths(static_cast<int>(count), kernels_.max_panel, widths_);
    bool affine = false;
    for (const MatmulTarget& t : targets) {
      const auto& weight = static_cast<const CpuWeight&>(*t.weight);
      affine |= weight.layout().has_value();
      products_.push_back({&weight, 0, need_of(weight), part, t.out.slice_rows(first, count), 0,
                           widths_.size(), t.bias, t.accumulate});
    }
    if (affine) activations_.quantize(kernels_, pool_, part, nullptr, widths_, needs_);
    run_products(products_);
  }
}

void CpuBackend::matmul_experts(Tensor out, const Weight& stack, Tensor in, std::span<const int32_t> expert,
                                std::span<const int32_t> source) {
  const auto& weight = static_cast<const CpuWeight&>(stack);
  QUERN_DCHECK(out.rows == static_cast<int64_t>(expert.size()) && expert.size() == source.size());
  QUERN_DCHECK(out.cols == weight.rows && in.cols == weight.cols && !weight.table_only);
  const int64_t chunk = column_chunk(in.cols);
  for (int64_t begin = 0; begin < out.rows; begin += chunk) {
    const int64_t end = std::min(out.rows, begin + chunk);
    needs_.clear();
    widths_.clear();
    products_.clear();
    const size_t need = need_of(weight);
    for (int64_t i = begin; i < end;) {
      int64_t next = i + 1;
      const auto same = [&](int64_t row) {
        // Rows of floats are read where they are, so a run of them must lie in one piece.
        return expert[row] == expert[i] && (weight.layout() || source[row] == source[i] + (row - i));
      };
      while (next < end && same(next)) ++next;
      const size_t first_panel = widths_.size();
      append_widths(static_cast<int>(next - i), kernels_.max_panel, widths_);
      const Tensor rows = weight.layout() ? Tensor{} : in.slice_rows(source[i], next - i);
      products_.push_back({&weight, expert[i], need, rows, out.slice_rows(i, next - i), first_panel,
                           widths_.size() - first_panel, nullptr, false});
      i = next;
    }
    if (weight.layout()) activations_.quantize(kernels_, pool_, in, source.data() + begin, widths_, needs_);
    run_products(products_);
  }
}

}  // namespace quern::cpu
