// Random inputs of single kernels, for benchmarks and for counting instructions.
#pragma once

#include <vector>

#include "backend/cpu/activations.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/kernels.h"
#include "backend/test_util.h"

namespace quern::cpu {

/// `tiles` tiles of 16 rows by `columns` columns of activations, `cols` weights a row.
class AffineInputs {
 public:
  AffineInputs(const Kernels& kernels, const QuantInfo& info, int64_t tiles, int64_t cols, int columns)
      : matrix_(testing::random_matrix(info, {tiles * kTileRows, cols}, 1)),
        layout_(*packed_layout(info, cols)),
        packed_(static_cast<size_t>(tiles * layout_.tile_bytes()) + 64),
        columns_(columns),
        acc_(static_cast<size_t>(columns * kTileRows)) {
    const size_t row_bytes = matrix_.bytes.size() / static_cast<size_t>(tiles * kTileRows);
    for (int64_t t = 0; t < tiles; ++t) {
      rows_.push_back({&info, &layout_, matrix_.bytes.data() + static_cast<size_t>(t * kTileRows) * row_bytes,
                       row_bytes, packed_.data() + t * layout_.tile_bytes()});
      pack_tile_reference(rows_.back(), kTileRows);
    }
    const auto x = testing::TestTensor::random(columns, cols, 2);
    std::vector<int> widths;
    append_widths(columns, kernels.max_panel, widths);
    ThreadPool pool(1);
    const ActivationNeed need = activation_need(layout_, kernels);
    activations_.quantize(kernels, pool, x.view, nullptr, widths, std::span(&need, 1));
  }
  AffineInputs(const AffineInputs&) = delete;
  AffineInputs& operator=(const AffineInputs&) = delete;

  int64_t tile_bytes() const { return layout_.tile_bytes(); }
  /// From the packed tile.
  AffineTiles from_tile(size_t tile) { return job(rows_[tile].out, nullptr); }
  /// From the rows as a file holds them.
  AffineTiles from_rows(size_t tile) { return job(nullptr, &rows_[tile]); }

 private:
  AffineTiles job(const uint8_t* tile, const PackTile* rows) {
    const auto panels = activations_.panels(0);
    return {&layout_, tile, rows, panels.data(), static_cast<int>(panels.size()), columns_, acc_.data()};
  }

  testing::TestMatrix matrix_;
  PackedLayout layout_;
  std::vector<uint8_t> packed_;
  std::vector<PackTile> rows_;
  Activations activations_;
  int columns_;
  std::vector<float> acc_;
};

/// One KV head of 64 dimensions with a group of 8 query heads, `rows` new tokens behind `before`.
class AttentionInputs {
 public:
  static constexpr int64_t kDim = 64, kHeads = 8, kBlock = 32;

  AttentionInputs(KvType type, int64_t before, int rows)
      : layout_(KvShape{1, kDim, kBlock, type}),
        q_(testing::TestTensor::random(rows, kHeads * kDim, 1)),
        out_(rows, kHeads * kDim),
        scratch_(static_cast<size_t>(AttentionScratch(layout_).floats)) {
    const int64_t count = (before + rows) / kBlock + 1;
    cache_.resize(static_cast<size_t>(layout_.head_bytes() * count));
    for (int32_t b = 0; b < count; ++b) blocks_.push_back(b);
    task_ = {.layout = &layout_,
             .block_size = kBlock,
             .head_dim = kDim,
             .head = cache_.data(),
             .block_bytes = layout_.head_bytes(),
             .blocks = blocks_.data(),
             .q = q_.view.data,
             .out = out_.view.data,
             .q_stride = kHeads * kDim,
             .out_stride = kHeads * kDim,
             .rows = rows,
             .heads = kHeads,
             .start = before,
             .window = 0,
             .scale = 0.125f};
  }
  AttentionInputs(const AttentionInputs&) = delete;
  AttentionInputs& operator=(const AttentionInputs&) = delete;

  const AttentionTask& task() const { return task_; }
  float* scratch() { return scratch_.data(); }
  int64_t block_bytes() const { return layout_.head_bytes(); }

 private:
  KvLayout layout_;
  std::vector<std::byte> cache_;
  std::vector<int32_t> blocks_;
  testing::TestTensor q_, out_;
  std::vector<float> scratch_;
  AttentionTask task_;
};

}  // namespace quern::cpu
