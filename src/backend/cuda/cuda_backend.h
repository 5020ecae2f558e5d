// The CUDA backend: what each op uploads and launches. The kernels are in kernels/.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/weight.h"

namespace quern::cuda {

class CudaBackend final : public Backend {
 public:
  /// `tested`: it is held to the self-test (self_check.h) by `test` and after each restart.
  CudaBackend(std::shared_ptr<Device> device, const GpuOptions& options, bool tested);

  const Device& device() const { return *device_; }
  /// Whether products of many columns run in the kernels that only Hopper has.
  bool hopper() const { return hopper_; }
  /// The self-test. Where it fails with Hopper's own kernels, those for all GPUs take their place if they
  /// pass it; `description` says so.
  Result<> test();

  std::string_view name() const override { return "cuda"; }
  std::string description() const override;

  Result<std::unique_ptr<DeviceBuffer>> alloc(size_t bytes) override;
  Result<std::unique_ptr<DeviceBuffer>> alloc_host(size_t bytes) override;
  std::optional<DeviceMemory> memory() const override { return device_->memory(); }
  std::optional<double> utilization() const override { return device_->utilization(); }
  Result<std::unique_ptr<Weight>> prepare(const RawTensor& tensor) override;
  Result<std::unique_ptr<Weight>> prepare_table(const RawTensor& tensor) override;
  uint64_t prepared_bytes(const RawTensor& tensor) const override;
  Result<std::unique_ptr<Vector>> prepare_vector(const RawTensor& tensor) override;
  Result<std::unique_ptr<Vector>> prepare_vector(std::span<const float> values) override;
  size_t kv_block_bytes(const KvShape& shape) const override;
  Result<> supports(KvType type) const override;

  int64_t prompt_rows() const override { return 2048; }
  void begin_step(const StepInputs& inputs) override;
  Result<> end_step() override;
  bool failed() const override { return device_->failed() || distrusted_; }
  Result<> restart() override;

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
  bool best_of_rows(std::span<BestOfRow> out, Tensor in, std::span<const float> scale) override;
  void write(Tensor out, const float* host) override;
  void kv_copy_block(KvLayer layer, const KvShape& shape, int32_t from, int32_t to) override;

 private:
  /// Sequences as kernels read them.
  struct Sequences {
    const Slice* slices = nullptr;
    const int32_t* blocks = nullptr;
    const int32_t* slice_of_row = nullptr;
  };
  /// What one step has on the device already.
  struct Step {
    StepInputs inputs;
    const int32_t *tokens = nullptr, *positions = nullptr, *logit_rows = nullptr;
    Sequences sequences;
  };
  /// The jobs of attention: the same in every layer.
  struct AttentionPlan {
    std::span<const SequenceSlice> sequences;
    int64_t block_size = 0, group = 0, window = 0, heads = 0;
    int own = 0, shared = 0, joins = 0, partials = 0;
    const AttentionJob *own_jobs = nullptr, *shared_jobs = nullptr, *join_jobs = nullptr;
  };
  /// cos and sin of the rows' positions: the same in every layer.
  struct Turns {
    const int32_t* positions = nullptr;
    const Vector* frequency = nullptr;
    float magnitude = 0;
    int64_t pairs = 0;
  };

  Result<std::unique_ptr<Weight>> prepare_grouped(const RawTensor& tensor);

  /// Before every op but matmul: what the last one left for the next is done by itself, or forgotten.
  void begin_op();
  void launch_waiting_rope();
  /// An op that fails does nothing, and end_step says why.
  void note(Result<> done);
  template <class T>
  Result<const T*> upload(std::span<const T> values);
  Result<const int32_t*> ids(std::span<const int32_t> values);
  Result<Sequences> add_sequences(std::span<const SequenceSlice> sequences);
  Result<Sequences> sequences(std::span<const SequenceSlice> sequences);
  Result<> add_step(const StepInputs& inputs);

  Result<> run_embed(Tensor out, const CudaWeight& table, std::span<const int32_t> ids);
  Result<> run_rope(Tensor x, std::span<const int32_t> positions, const CudaVector& frequency,
                    const RopeShape& shape);
  Result<> run_best_of_rows(std::span<BestOfRow> out, Tensor in, std::span<const float> scale);
  Result<> run_scatter_add(Tensor out, Tensor in, std::span<const int32_t> target,
                           std::span<const float> weight);

  // ---- cuda_matmul.cc
  Result<> run_in_parts(std::span<const MatmulTarget> targets, Tensor in);
  Result<> run_targets(std::span<const MatmulTarget> targets, Tensor in);
  Result<> run_experts(Tensor out, const CudaWeight& stack, Tensor in, std::span<const int32_t> expert,
                       std::span<const int32_t> source);
  /// How a matmul wants its activations: rows of a block of the Hopper kernel (0: in order), and the order of
  /// k there.
  struct Wanted {
    int cols = 0, sub = 32;
    bool operator==(const Wanted&) const = default;
  };
  Wanted wanted(const CudaWeight& weight, int rows) const;
  int hopper_cols(int rows) const;
  /// In halves_ and scales_; what they held is lost.
  Result<ActivationArgs> room_for(int rows, int padded, const Wanted& wanted);
  /// Makes `out` with one kernel, together with what a matmul of it needs; false when it is not of that kind.
  Result<bool> row_step(RowStepArgs::Kind kind, Tensor out, RowStepArgs args, const Wanted& wanted);
  Result<MatmulArgs> convert(Tensor in, int rows, const CudaWeight& weight, const int32_t* source,
                             const Wanted& wanted);
  Result<> run_same_form(const MatmulArgs& converted, std::span<const MatmulTarget* const> targets,
                         int hopper_cols);
  Result<> run_hopper(MatmulArgs args, std::span<const MatmulTarget* const> targets, int cols);
  Result<> run_wide(MatmulArgs args, std::span<const MatmulTarget* const> targets);
  /// Launches, with room for the sums of the splits, and adds them up.
  template <class Launch>
  Result<> run_split(MatmulArgs& args, int splits, const Launch& launch);

  // ---- cuda_attention.cc
  Result<const AttentionPlan*> plan_attention(const KvForm& form, const AttentionShape& shape, int group,
                                              std::span<const SequenceSlice> sequences);
  Result<> run_attention(Tensor out, Tensor q, KvLayer layer, const KvShape& kv, const AttentionShape& shape,
                         std::span<const SequenceSlice> sequences);
  Result<> run_kv_write(KvLayer layer, const KvShape& shape, Tensor k, Tensor v,
                        std::span<const SequenceSlice> sequences);

  const std::shared_ptr<Device> device_;
  bool hopper_;               // see hopper()
  const bool invariant_;      // GpuOptions::batch_invariant
  const int hopper_cluster_;  // GpuOptions::hopper_cluster
  const bool tested_;
  std::atomic<bool> distrusted_ = false;  // from a restart on, until it has passed the self-test
  InputOrders orders_;
  Uploads uploads_;
  Result<> failure_;  // the first since end_step
  std::optional<Step> step_;
  std::optional<AttentionPlan> attention_;
  Turns turns_;
  /// The last op's output, converted for a matmul: halves_ and scales_ hold it until the next op is over.
  struct Converted {
    Tensor of;
    Wanted wanted;
    MatmulArgs args;
  };
  std::optional<Converted> converted_;
  /// The last op, when it was a rope: one kernel turns keys and writes them to the cache.
  std::optional<RopeArgs> waiting_rope_;

  Workspace turn_values_, halves_, scales_, partials_, partial_out_, partial_stats_, best_;
};

inline Rows rows_of(const Tensor& t) {
  return {t.data, static_cast<int>(t.rows), static_cast<int>(t.cols), t.stride};
}

template <class T>
Result<const T*> CudaBackend::upload(std::span<const T> values) {
  QUERN_TRY(const T* to, uploads_.add(values));
  uploads_.flush();
  return to;
}

}  // namespace quern::cuda
