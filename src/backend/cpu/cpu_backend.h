// The CPU backend: splits each op over the threads; the kernels (kernels.h) do the rest.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/activations.h"
#include "backend/cpu/attention.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/packer.h"
#include "backend/cpu/weight.h"
#include "core/thread_pool.h"

namespace quern::cpu {

class CpuVector final : public Vector {
 public:
  explicit CpuVector(std::vector<float> values);
  std::span<const float> host() const override { return values_; }
  const uint64_t id;  // of this vector alone, for caches

 private:
  std::vector<float> values_;
};

/// How much of what steps pack on the way they keep. Without this, weights would stay unpacked under a steady
/// load, which leaves the packer's thread no time; with all of it, single steps would wait for fresh memory.
class KeepBudget {
 public:
  /// Whether `bytes` may be kept now; if so, they are taken off.
  bool take(size_t bytes);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr double kRate = 512e6;  // bytes a second
  static constexpr double kMost = 64e6;   // saved up
  double bytes_ = 0;
  Clock::time_point last_ = Clock::now();
};

class CpuBackend final : public Backend {
 public:
  /// `keep_packed` as in CpuOptions.
  CpuBackend(const Kernels& kernels, int threads, bool keep_packed);

  int threads() const { return pool_.size(); }
  std::string_view name() const override { return "cpu"; }
  std::string description() const override;

  Result<std::unique_ptr<DeviceBuffer>> alloc(size_t bytes) override;
  Result<std::unique_ptr<Weight>> prepare(const RawTensor& tensor) override;
  Result<std::unique_ptr<Weight>> prepare_table(const RawTensor& tensor) override;
  uint64_t prepared_bytes(const RawTensor& tensor) const override;
  Result<std::unique_ptr<Vector>> prepare_vector(const RawTensor& tensor) override;
  Result<std::unique_ptr<Vector>> prepare_vector(std::span<const float> values) override;
  void settle() override;
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
  void write(Tensor out, const float* host) override;
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
    const uint8_t* tiles = nullptr;  // of the affine family: its tiles, when they are all there,
    CpuWeight::Claim keep{};         // or which to keep of those that are packed now
  };

  Result<std::unique_ptr<CpuWeight>> weight_of(const RawTensor& tensor) const;
  Result<std::unique_ptr<Weight>> prepare_grouped(const RawTensor& tensor);
  /// The same order for all weights that have equal ones, so that they share quantized inputs.
  std::shared_ptr<const InputOrder> shared_order(std::shared_ptr<const InputOrder> order);
  size_t need_of(const CpuWeight& weight);
  /// Finds each product's tiles, runs the products, and publishes the tiles that were kept.
  void run_products(std::span<Product> products);
  /// Tiles [first, end) of a product.
  void run_tiles(const Product& product, int64_t first, int64_t end, int thread);
  /// acc: [end - first][columns][16]
  void multiply_affine(const Product& product, int64_t first, int64_t end, int thread, float* acc);
  void multiply_floats(const Product& product, int64_t first, int64_t end, float* acc);
  template <class Body>
  void for_rows(int64_t rows, const Body& body) {
    pool_.parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) body(r);
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
  struct Scratch {
    std::vector<Line> sums, tile;
  };
  std::vector<Scratch> scratch_;    // per thread
  std::shared_ptr<Packer> packer_;  // null: nothing is kept
  KeepBudget keep_budget_;
  std::mutex orders_mutex_;
  std::vector<std::weak_ptr<const InputOrder>> orders_;  // guarded by it; those in use

  struct Rotation {
    uint64_t frequency = 0;
    float magnitude = 0;
    int64_t pairs = 0;
    std::vector<int32_t> positions;
    std::vector<float> cosine, sine;  // [positions][pairs]
  } rotation_;
  struct {
    std::vector<AttentionTask> tasks;
    std::vector<AttentionTask> stretches;  // of the tasks, where there are too few of those for the threads
    std::vector<Line> gathered;            // what each of the stretches gives
  } attention_;                            // grow-only
  /// Fills attention_.stretches from the tasks; false where there is no more than one for each.
  bool split_tasks(const KvLayout& layout);
  void prepare_rotation(std::span<const int32_t> positions, const CpuVector& frequency,
                        const RopeShape& shape);
  float* scratch(int thread, int64_t floats);
  uint8_t* tile_scratch(int thread, int64_t bytes);
};

}  // namespace quern::cpu
