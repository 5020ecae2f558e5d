// A matrix, or a stack of them, on the CPU. Affine formats are multiplied as tiles (packed.h), and those are
// made late: a weight is ready as soon as it is checked. Until a matrix has all its tiles, whoever multiplies
// by it takes the rows apart on the way, with the same result to the bit; a background thread (packer.h), and
// steps themselves in moderation, make the tiles that stay.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>

#include "backend/backend.h"
#include "backend/cpu/grouped.h"
#include "backend/cpu/kernels.h"
#include "core/buffer.h"

namespace quern::cpu {

class Packer;

class CpuWeight final : public Weight {
 public:
  CpuWeight() = default;
  ~CpuWeight() override;

  size_t bytes() const override { return memory_.size(); }
  SourceUse source_use() const override;
  RawTensor raw;            // as the file has it: for embed, and for F32, F16 and BF16 matrices
  bool table_only = false;  // no matmul will ask for it

  // ---- matrices of floats
  /// Memory for f32 rows, where the kernels cannot read the file's own.
  Result<float*> hold_floats();
  DType float_dtype() const { return memory_.size() > 0 ? DType::F32 : dtype; }
  /// Matrix `matrix` as rows of floats.
  const std::byte* float_rows(int64_t matrix) const;

  // ---- matrices of the affine family
  const std::optional<PackedLayout>& layout() const { return layout_; }
  size_t matrix_bytes() const { return static_cast<size_t>(tile_count(rows) * layout_->tile_bytes()); }
  /// All tiles of a matrix or a stack of them.
  static uint64_t tile_bytes(const PackedLayout& layout, const RawTensor& tensor) {
    const int64_t experts = tensor.shape.size() == 3 ? std::max<int64_t>(tensor.shape[0], 1) : 1;
    return static_cast<uint64_t>(experts * tile_count(tensor.rows() / experts) * layout.tile_bytes());
  }
  /// Makes it one; false when its format has no layout. With a packer, memory is reserved (not touched) and
  /// the tiles will come; without one, or without memory (`warning` says so), they never stay.
  bool set_affine(std::shared_ptr<Packer> packer);
  /// Whether kernels can multiply by a tile's rows as the file has them; the others must be packed first.
  bool multiplies_from_file(int64_t tile) const {
    return plan_ == nullptr && info_->fields != nullptr && (tile + 1) * kTileRows <= rows;
  }
  /// A tile's rows in the file, when they can be multiplied from there; `out` is for the caller to set.
  PackTile file_rows(int64_t matrix, int64_t tile) const;
  /// The same of a grouped matrix (`raw.grouped`).
  void set_grouped(GroupedPlan plan, std::shared_ptr<Packer> packer);
  /// The order in which it takes its inputs; null: as they are.
  const InputOrder* order() const { return plan_ == nullptr ? nullptr : plan_->order.get(); }
  const GroupedPlan* grouped_plan() const { return plan_.get(); }
  /// Packs one tile of a matrix into layout().tile_bytes() bytes.
  void pack_tile(const Kernels& kernels, int64_t matrix, int64_t tile, uint8_t* out) const;

  /// All tiles of a matrix; null as long as they are not all there.
  const uint8_t* tiles(int64_t matrix) const {
    return progress(matrix) == kPacked ? matrix_at(matrix) : nullptr;
  }

  // Tiles that stay. (Const, as multiplying is: nothing that can be seen changes.) The packer claims one at a
  // time, because nobody knows when its thread gets a core again; a step takes all that are left.

  /// From tile `first` on a matrix's tiles are the caller's alone to fill, and then to `publish`. `matrix` is
  /// null when there are none to claim, or nothing stays.
  struct Claim {
    uint8_t* matrix = nullptr;  // where its first tile lies
    int64_t first = 0;
  };
  Claim claim(int64_t matrix) const;
  /// Whether `claim` would find tiles, and would have when this was called before: the first use is not the
  /// one to wait.
  bool met(int64_t matrix) const;
  /// For the packer alone, which claims a matrix's tiles in order: the place of `tile`; null when there is no
  /// such tile, or a step has claimed it and those after it.
  uint8_t* claim_tile(int64_t matrix, int64_t tile) const;
  /// Of a claim, once filled, or of the packer's tiles once it gets no more: both have one to make, where
  /// they share a matrix.
  void publish(int64_t matrix) const;
  /// The packer's tiles are not filled. No step may be at this weight.
  void give_up(int64_t matrix) const { matrices_[matrix].progress.store(0, std::memory_order_release); }

 private:
  // Of a matrix: how many tiles the packer has claimed, or one of these.
  static constexpr int64_t kShared = -1;   // a step has claimed the rest; neither has published
  static constexpr int64_t kClaimed = -2;  // one publication is missing
  static constexpr int64_t kPacked = -3;
  struct Matrix {
    std::atomic<int64_t> progress{0};
    std::atomic<bool> met{false};
  };
  int64_t progress(int64_t matrix) const {
    return matrices_ == nullptr ? 0 : matrices_[matrix].progress.load(std::memory_order_acquire);
  }
  uint8_t* matrix_at(int64_t matrix) const {
    return reinterpret_cast<uint8_t*>(const_cast<std::byte*>(memory_.data())) +
           static_cast<size_t>(matrix) * matrix_bytes();
  }

  /// Reserves memory for the tiles, and has them made.
  void keep_tiles(std::shared_ptr<Packer> packer);

  std::optional<PackedLayout> layout_;
  const QuantInfo* info_ = nullptr;     // of the file's blocks,
  std::unique_ptr<GroupedPlan> plan_;   // or how a grouped matrix is cut
  Buffer memory_;                       // tiles, or f32 rows
  std::unique_ptr<Matrix[]> matrices_;  // of the stack; null: nothing stays
  std::shared_ptr<Packer> packer_;      // null: it does not know this weight
};

}  // namespace quern::cpu
