#include "backend/cpu/weight.h"

#include <algorithm>

#include "backend/cpu/packer.h"

namespace quern::cpu {

CpuWeight::~CpuWeight() {
  if (packer_ != nullptr) packer_->remove(this);
}

Result<float*> CpuWeight::hold_floats() {
  QUERN_TRY(memory_, Buffer::allocate(static_cast<size_t>(raw.elements()) * sizeof(float)));
  return memory_.as<float>();
}

const std::byte* CpuWeight::float_rows(int64_t matrix) const {
  const int64_t row_bytes = cols * (float_dtype() == DType::F32 ? 4 : 2);
  return (memory_.size() > 0 ? memory_.data() : raw.data.data()) + matrix * rows * row_bytes;
}

bool CpuWeight::set_affine(std::shared_ptr<Packer> packer) {
  info_ = find_quant(dtype);
  layout_ = packed_layout(*info_, cols);
  if (!layout_) return false;
  keep_tiles(std::move(packer));
  return true;
}

void CpuWeight::set_grouped(GroupedPlan plan, std::shared_ptr<Packer> packer) {
  plan_ = std::make_unique<GroupedPlan>(std::move(plan));
  layout_ = plan_->layout;
  keep_tiles(std::move(packer));
}

void CpuWeight::keep_tiles(std::shared_ptr<Packer> packer) {
  if (packer == nullptr) return;
  // Vector loads may read up to one vector past the last tile.
  auto memory = Buffer::allocate(static_cast<size_t>(experts) * matrix_bytes() + 64);
  if (!memory) {
    warning = fmt::format("its fast form stays out of memory and is made anew at every use: {}",
                          memory.error().message);
    return;
  }
  memory_ = *std::move(memory);
  matrices_ = std::make_unique<Matrix[]>(static_cast<size_t>(experts));
  packer_ = std::move(packer);
  packer_->add(this);
}

Weight::SourceUse CpuWeight::source_use() const {
  if (!layout_) return memory_.size() > 0 ? SourceUse::never : SourceUse::always;
  if (matrices_ == nullptr) return SourceUse::always;
  for (int64_t m = 0; m < experts; ++m)
    if (progress(m) != kPacked) return SourceUse::until_final;
  return SourceUse::never;
}

PackTile CpuWeight::file_rows(int64_t matrix, int64_t tile) const {
  if (plan_ != nullptr) return {};
  const size_t row_bytes = static_cast<size_t>(cols / info_->block) * info_->bytes;
  const auto row = static_cast<size_t>(matrix * rows + tile * kTileRows);
  return {info_, &*layout_, raw.data.data() + row * row_bytes, row_bytes, nullptr};
}

void CpuWeight::pack_tile(const Kernels& kernels, int64_t matrix, int64_t tile, uint8_t* out) const {
  if (plan_ != nullptr) {
    const int64_t first = tile * kTileRows;
    const PackGrouped job{raw.grouped, plan_.get(), plan_->source(), first, out};
    return first + kTileRows <= rows ? kernels.pack_grouped(job) : pack_grouped_reference(job);
  }
  PackTile job = file_rows(matrix, tile);
  job.out = out;
  if (multiplies_from_file(tile)) return kernels.pack_tile(job);
  pack_tile_reference(job, static_cast<int>(std::min<int64_t>(kTileRows, rows - tile * kTileRows)));
}

CpuWeight::Claim CpuWeight::claim(int64_t matrix) const {
  if (matrices_ == nullptr) return {};
  std::atomic<int64_t>& claims = matrices_[matrix].progress;
  int64_t begun = claims.load(std::memory_order_acquire);
  while (begun >= 0 && begun < tile_count(rows))
    if (claims.compare_exchange_weak(begun, begun == 0 ? kClaimed : kShared, std::memory_order_acq_rel))
      return {matrix_at(matrix), begun};
  return {};
}

bool CpuWeight::met(int64_t matrix) const {
  const int64_t begun = progress(matrix);
  return matrices_ != nullptr && begun >= 0 && begun < tile_count(rows) &&
         matrices_[matrix].met.exchange(true, std::memory_order_relaxed);
}

uint8_t* CpuWeight::claim_tile(int64_t matrix, int64_t tile) const {
  int64_t begun = tile;
  if (matrices_ == nullptr || tile >= tile_count(rows) ||
      !matrices_[matrix].progress.compare_exchange_strong(begun, tile + 1, std::memory_order_acq_rel))
    return nullptr;
  return matrix_at(matrix) + tile * layout_->tile_bytes();
}

void CpuWeight::publish(int64_t matrix) const {
  // Read and write at once: who sees a packed matrix must see what either has written.
  std::atomic<int64_t>& claims = matrices_[matrix].progress;
  int64_t now = claims.load(std::memory_order_relaxed);
  while (!claims.compare_exchange_weak(now, now == kShared ? kClaimed : kPacked, std::memory_order_acq_rel))
    ;
}

}  // namespace quern::cpu
