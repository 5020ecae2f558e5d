// The CPU backend: splits each op over the threads; the kernels (kernels.h) do the rest.
#pragma once

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/activations.h"
#include "backend/cpu/kernels.h"
#include "core/buffer.h"
#include "core/thread_pool.h"

namespace quern::cpu {

class CpuWeight final : public Weight {
 public:
  RawTensor raw;  // as the file has it: for embed, and for F32, F16 and BF16 matrices
  std::optional<PackedLayout> layout;
  /// Tiles of the affine family; or f32 rows of a format that neither family's kernels can hold.
  Buffer packed;
  bool table_only = false;

  size_t bytes() const override { return packed.size(); }
  /// Matrix `expert` as rows of floats.
  const std::byte* float_rows(int64_t expert) const;
  DType float_dtype() const { return packed.size() > 0 ? DType::F32 : dtype; }
};

class CpuVector final : public Vector {
 public:
  explicit CpuVector(std::vector<float> values);
  std::span<const float> host() const override { return values_; }
  const uint64_t id;  // of this vector alone, for caches

 private:
  std::vector<float> values_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, int threads);

  std::string_view name() const override { return "cpu"; }
  std::string description() const override;

  Result<std::unique_ptr<DeviceBuffer>> alloc(size_t bytes) override;
  Result<std::unique_ptr<Weight>> prepare(const RawTensor& tensor) override;
  Result<std::unique_ptr<Weight>> prepare_table(const RawTensor& tensor) override;
  Result<std::unique_ptr<Vector>> prepare_vector(const RawTensor& tensor) override;
  Result<std::unique_ptr<Vector>> prepare_vector(std::span<const float> values) override;
  size_t kv_block_bytes(const KvShape& shape) const override;
  Result<> supports(KvType type) const override;

  void embed(Tensor out, const Weight& table, std::span<const int32_t> ids) override;
  void rms_norm(Tensor out, Tensor in, const Vector& gain, float eps) override;
  void matmul(Tensor out, const Weight& weight, Tensor in, const Vector* bias, bool accumulate) override;
  void matmul_multi(std::span<const MatmulTarget> targets, Tensor in) override;
  void matmul_experts(Tensor out, const Weight& stack, Tensor in, std::span<const int32_t> expert,
                      std::span<const int32_t> source) override;
  void rope(Tensor x, std::span<const int32_t> positions, const Vector& frequency,
            const RopeShape& shape) override;
  void kv_write(KvLayer layer, const KvShape& shape, Tensor k, Tensor v,
                std::span<const SequenceSlice> sequences) override;
  void attention(Tensor out, Tensor q, KvLayer layer, const KvShape& kv, const AttentionShape& shape,
                 std::span<const SequenceSlice> sequences) override;
  void silu_mul(Tensor out, Tensor gate, Tensor up) override;
  void add(Tensor out, Tensor in) override;
  void gather_rows(Tensor out, Tensor in, std::span<const int32_t> rows) override;
  void scatter_add(Tensor out, Tensor in, std::span<const int32_t> target,
                   std::span<const float> weight) override;
  void read(float* host, Tensor in) override;
  void kv_copy_block(KvLayer layer, const KvShape& shape, int32_t from, int32_t to) override;

 private:
  /// One weight (an expert of it) by some columns, the same for all its tiles.
  struct Product {
    const CpuWeight* weight;
    int64_t expert;
    size_t need;  // into the activations' needs
    Tensor in;    // these columns' rows (float weights)
    Tensor out;   // likewise
    size_t first_panel;
    size_t panel_count;
    const Vector* bias;
    bool accumulate;
  };

  Result<std::unique_ptr<CpuWeight>> check_matrix(const RawTensor& tensor) const;
  size_t need_of(const CpuWeight& weight);
  void run_products(std::span<const Product> products);
  void run_tile(const Product& product, int64_t tile, int thread);
  /// body(row) for every row, in one contiguous part per thread.
  template <class Body>
  void for_rows(int64_t rows, const Body& body) {
    pool_.parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) body(r);
    });
  }
  /// body(thread, item) for every item, handed out `grain` at a time to whichever thread is free.
  template <class Body>
  void for_items(int64_t count, int64_t grain, const Body& body) {
    if (pool_.size() == 1 || count <= grain) {
      for (int64_t i = 0; i < count; ++i) body(0, i);
      return;
    }
    std::atomic<int64_t> next{0};
    pool_.run([&](int thread, int) {
      for (int64_t i = next.fetch_add(grain); i < count; i = next.fetch_add(grain))
        for (int64_t j = i; j < std::min(count, i + grain); ++j) body(thread, j);
    });
  }

  const Kernels& kernels_;
  ThreadPool pool_;
  Activations activations_;
  std::vector<ActivationNeed> needs_;
  std::vector<int> widths_;
  std::vector<Product> products_;
  struct alignas(64) Line {
    float f[16];
  };
  std::vector<std::vector<Line>> scratch_;  // per thread

  struct Rotation {
    uint64_t frequency = 0;
    float magnitude = 0;
    int64_t pairs = 0;
    std::vector<int32_t> positions;
    std::vector<float> cosine, sine;  // [positions][pairs]
  } rotation_;
  void prepare_rotation(std::span<const int32_t> positions, const CpuVector& frequency,
                        const RopeShape& shape);
  float* scratch(int thread, int64_t floats);
};

}  // namespace quern::cpu
