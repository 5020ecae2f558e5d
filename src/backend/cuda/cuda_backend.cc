#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "backend/cuda/check_grouped.h"
#include "backend/cuda/self_check.h"
#include "core/check.h"
#include "quant/stored.h"

namespace quern::cuda {
namespace {

class CudaBuffer final : public DeviceBuffer {
 public:
  explicit CudaBuffer(Allocation memory) : memory_(std::move(memory)) {}
  void* data() override { return memory_.as<void>(); }
  size_t size() const override { return memory_.bytes(); }

 private:
  Allocation memory_;
};

constexpr size_t kCollectedRows = 32;

/// Page-locked.
class HostMemory final : public DeviceBuffer {
 public:
  HostMemory(std::shared_ptr<Device> device, void* memory, size_t bytes)
      : device_(std::move(device)), memory_(memory), bytes_(bytes) {}
  ~HostMemory() override { device_->free_host(memory_); }
  void* data() override { return memory_; }
  size_t size() const override { return bytes_; }

 private:
  std::shared_ptr<Device> device_;
  void* memory_;
  size_t bytes_;
};

const CudaVector& cuda_vector(const Vector& vector) { return static_cast<const CudaVector&>(vector); }

bool same(std::span<const int32_t> a, std::span<const int32_t> b) {
  return a.data() == b.data() && a.size() == b.size();
}

}  // namespace

CudaBackend::CudaBackend(std::shared_ptr<Device> device, const GpuOptions& options, bool tested)
    : device_(std::move(device)),
      hopper_(device_->hopper()),
      invariant_(options.batch_invariant),
      hopper_cluster_(options.hopper_cluster),
      tested_(tested),
      uploads_(device_),
      turn_values_(device_),
      halves_(device_),
      scales_(device_),
      partials_(device_),
      partial_out_(device_),
      partial_stats_(device_),
      best_(device_) {}

std::string CudaBackend::description() const {
  return fmt::format("cuda ({}, {} GiB{})", device_->name(), device_->memory().total >> 30,
                     device_->hopper() && !hopper_ ? "; Hopper's own kernels failed the self-test" : "");
}

Result<> CudaBackend::test() {
  if (!tested_) return {};
  Result<> sound = self_check(*this);
  if (sound || !hopper_) return sound;
  hopper_ = false;
  return device_->failed() ? restart() : self_check(*this);
}

// ---- memory

Result<std::unique_ptr<DeviceBuffer>> CudaBackend::alloc(size_t bytes) {
  QUERN_TRY(Allocation memory, Allocation::of(device_, bytes));
  return std::make_unique<CudaBuffer>(std::move(memory));
}

Result<std::unique_ptr<DeviceBuffer>> CudaBackend::alloc_host(size_t bytes) {
  void* memory = device_->alloc_host(bytes);
  if (memory == nullptr)
    return fail(ErrorCode::resource_exhausted, "cuda: no {} bytes of page-locked memory", bytes);
  return std::make_unique<HostMemory>(device_, memory, bytes);
}

Result<std::unique_ptr<Weight>> CudaBackend::prepare(const RawTensor& tensor) {
  if (tensor.grouped != nullptr) return prepare_grouped(tensor);
  QUERN_TRY_VOID(check_matrix(tensor));
  return CudaWeight::pack(tensor, device_);
}

Result<std::unique_ptr<Weight>> CudaBackend::prepare_table(const RawTensor& tensor) {
  if (tensor.grouped != nullptr) return prepare_grouped(tensor);
  QUERN_TRY_VOID(check_matrix(tensor));
  if (find_quant(tensor.dtype)->family == Family::floating) return CudaWeight::table(tensor, device_);
  return CudaWeight::pack(tensor, device_);
}

Result<std::unique_ptr<Weight>> CudaBackend::prepare_grouped(const RawTensor& tensor) {
  if (tensor.shape != std::vector<int64_t>{tensor.grouped->rows, tensor.grouped->cols})
    return fail(ErrorCode::invalid_argument, "tensor {}: its shape is not that of its parts", tensor.name);
  QUERN_TRY(auto weight, CudaWeight::pack_grouped(tensor, device_, orders_));
  QUERN_TRY_VOID(check_grouped(tensor, *weight, device_));
  return weight;
}

uint64_t CudaBackend::prepared_bytes(const RawTensor& tensor) const {
  if (tensor.grouped != nullptr) return pack_plan(*tensor.grouped).bytes();
  const QuantInfo* info = find_quant(tensor.dtype);
  if (info == nullptr || tensor.shape.size() < 2) return tensor.data.size();
  const int64_t experts = tensor.shape.size() == 3 ? std::max<int64_t>(tensor.shape[0], 1) : 1;
  return static_cast<uint64_t>(experts) * pack_plan(*info, tensor.rows() / experts, tensor.cols()).bytes();
}

Result<std::unique_ptr<Vector>> CudaBackend::prepare_vector(const RawTensor& tensor) {
  QUERN_TRY(const std::vector<float> values, decode_vector(tensor));
  return prepare_vector(std::span<const float>(values));
}

Result<std::unique_ptr<Vector>> CudaBackend::prepare_vector(std::span<const float> values) {
  QUERN_TRY(Allocation memory, Allocation::of(device_, values.size_bytes()));
  QUERN_TRY_VOID(device_->load(memory.as<void>(), values.data(), values.size_bytes()));
  return std::make_unique<CudaVector>(std::vector<float>(values.begin(), values.end()), std::move(memory));
}

// ---- steps

void CudaBackend::note(Result<> done) {
  if (!done && failure_) failure_ = std::move(done);
}

void CudaBackend::begin_op() {
  launch_waiting_rope();
  converted_.reset();
}

void CudaBackend::launch_waiting_rope() {
  if (!waiting_rope_) return;
  launch_rope(*waiting_rope_, device_->stream());
  waiting_rope_.reset();
}

void CudaBackend::begin_step(const StepInputs& inputs) {
  begin_op();
  note(device_->wait());
  uploads_.reset();
  step_.reset();
  attention_.reset();
  turns_ = {};
  begin_op();
  note(add_step(inputs));
  // In steps with more rows kernels run longer than launching takes.
  if (inputs.tokens.size() <= kCollectedRows) device_->collect();
}

Result<> CudaBackend::add_step(const StepInputs& inputs) {
  Step step{.inputs = inputs};
  QUERN_TRY(step.tokens, uploads_.add(inputs.tokens));
  QUERN_TRY(step.positions, uploads_.add(inputs.positions));
  QUERN_TRY(step.logit_rows, uploads_.add(inputs.logit_rows));
  QUERN_TRY(step.sequences, add_sequences(inputs.sequences));
  uploads_.flush();
  step_ = step;
  return {};
}

Result<> CudaBackend::end_step() {
  begin_op();
  step_.reset();
  attention_.reset();
  turns_ = {};
  note(device_->wait());
  return std::exchange(failure_, Result<>{});
}

Result<> CudaBackend::restart() {
  waiting_rope_.reset();
  converted_.reset();
  step_.reset();
  attention_.reset();
  turns_ = {};
  failure_ = {};
  uploads_.drop();
  for (Workspace* workspace :
       {&turn_values_, &halves_, &scales_, &partials_, &partial_out_, &partial_stats_, &best_})
    workspace->drop();
  distrusted_ = true;
  QUERN_TRY_VOID(device_->restart());
  QUERN_TRY_VOID(test());
  distrusted_ = false;
  return {};
}

Result<const int32_t*> CudaBackend::ids(std::span<const int32_t> values) {
  if (step_) {
    if (same(values, step_->inputs.tokens)) return step_->tokens;
    if (same(values, step_->inputs.positions)) return step_->positions;
    if (same(values, step_->inputs.logit_rows)) return step_->logit_rows;
  }
  return upload(values);
}

Result<CudaBackend::Sequences> CudaBackend::add_sequences(std::span<const SequenceSlice> sequences) {
  std::vector<Slice> slices;
  std::vector<int32_t> blocks, slice_of_row;
  for (const SequenceSlice& s : sequences) {
    slice_of_row.resize(static_cast<size_t>(
        std::max<int64_t>(static_cast<int64_t>(slice_of_row.size()), int64_t{s.row} + s.count)));
    std::fill_n(slice_of_row.begin() + s.row, s.count, static_cast<int32_t>(slices.size()));
    slices.push_back({s.row, s.count, s.start, static_cast<int32_t>(blocks.size())});
    blocks.insert(blocks.end(), s.blocks.begin(), s.blocks.end());
  }
  Sequences out;
  QUERN_TRY(out.slices, uploads_.add(std::span<const Slice>(slices)));
  QUERN_TRY(out.blocks, uploads_.add(std::span<const int32_t>(blocks)));
  QUERN_TRY(out.slice_of_row, uploads_.add(std::span<const int32_t>(slice_of_row)));
  return out;
}

Result<CudaBackend::Sequences> CudaBackend::sequences(std::span<const SequenceSlice> sequences) {
  if (step_ && sequences.data() == step_->inputs.sequences.data() &&
      sequences.size() == step_->inputs.sequences.size())
    return step_->sequences;
  QUERN_TRY(const Sequences out, add_sequences(sequences));
  uploads_.flush();
  return out;
}

// ---- ops

void CudaBackend::embed(Tensor out, const Weight& table, std::span<const int32_t> ids) {
  QUERN_DCHECK(out.rows == static_cast<int64_t>(ids.size()) && out.cols == table.cols);
  begin_op();
  note(run_embed(out, static_cast<const CudaWeight&>(table), ids));
}

Result<> CudaBackend::run_embed(Tensor out, const CudaWeight& table, std::span<const int32_t> values) {
  QUERN_TRY(const int32_t* on_device, ids(values));
  if (table.kernels() == nullptr)
    launch_embed_floats(rows_of(out), table.floats(), table.float_kind(), on_device, device_->stream());
  else
    launch_embed(rows_of(out), table.packed(), table.form(), on_device, device_->stream());
  return {};
}

void CudaBackend::rms_norm(Tensor out, Tensor in, const Vector& gain, float eps) {
  const auto group = static_cast<int>(gain.host().size());
  QUERN_DCHECK(out.rows == in.rows && out.cols == in.cols && in.cols % group == 0);
  begin_op();
  const Wanted next{hopper_cols(static_cast<int>(in.rows))};  // most forms have that order
  if (group == in.cols) {
    const auto done = row_step(RowStepArgs::rms_norm, out,
                               {.in = rows_of(in), .gain = cuda_vector(gain).device(), .eps = eps}, next);
    if (!done) return note(fail(done.error()));
    if (*done) return;
  }
  launch_rms_norm(rows_of(out), rows_of(in), cuda_vector(gain).device(), group, eps, device_->stream());
}

void CudaBackend::rope(Tensor x, std::span<const int32_t> positions, const Vector& frequency,
                       const RopeShape& shape) {
  QUERN_DCHECK(x.rows == static_cast<int64_t>(positions.size()) && x.cols % shape.head_dim == 0);
  begin_op();
  note(run_rope(x, positions, cuda_vector(frequency), shape));
}

Result<> CudaBackend::run_rope(Tensor x, std::span<const int32_t> positions, const CudaVector& frequency,
                               const RopeShape& shape) {
  const auto pairs = static_cast<int>(shape.rotated / 2), rows = static_cast<int>(x.rows);
  QUERN_TRY(float* turn,
            turn_values_.take<float>(static_cast<size_t>(rows) * static_cast<size_t>(pairs) * 2));
  QUERN_TRY(const int32_t* on_device, ids(positions));
  // Only a step's own positions are known to stay the same.
  const bool made = step_ && on_device == step_->positions && turns_.positions == on_device &&
                    turns_.frequency == &frequency && turns_.magnitude == shape.magnitude &&
                    turns_.pairs == pairs;
  if (!made) {
    launch_turns(turn, on_device, rows, frequency.device(), pairs, shape.magnitude, device_->stream());
    turns_ = {on_device, &frequency, shape.magnitude, pairs};
  }
  waiting_rope_ = {.x = rows_of(x),
                   .turn = turn,
                   .head_dim = static_cast<int>(shape.head_dim),
                   .pairs = pairs,
                   .interleaved = shape.style == RopeStyle::interleaved ? 1 : 0};
  return {};
}

void CudaBackend::silu_mul(Tensor out, Tensor gate, Tensor up) {
  QUERN_DCHECK(out.rows == gate.rows && out.rows == up.rows && out.cols == gate.cols && out.cols == up.cols);
  begin_op();
  const Wanted next{hopper_cols(static_cast<int>(out.rows))};
  const auto done = row_step(RowStepArgs::silu_mul, out, {.in = rows_of(gate), .up = rows_of(up)}, next);
  if (!done) return note(fail(done.error()));
  if (*done) return;
  launch_silu_mul(rows_of(out), rows_of(gate), rows_of(up), device_->stream());
}

void CudaBackend::add(Tensor out, Tensor in) {
  QUERN_DCHECK(out.rows == in.rows && out.cols == in.cols);
  begin_op();
  launch_add(rows_of(out), rows_of(in), device_->stream());
}

void CudaBackend::gather_rows(Tensor out, Tensor in, std::span<const int32_t> rows) {
  QUERN_DCHECK(out.rows == static_cast<int64_t>(rows.size()) && out.cols == in.cols);
  begin_op();
  const auto on_device = ids(rows);
  if (!on_device) return note(fail(on_device.error()));
  launch_gather(rows_of(out), rows_of(in), *on_device, device_->stream());
}

void CudaBackend::scatter_add(Tensor out, Tensor in, std::span<const int32_t> target,
                              std::span<const float> weight) {
  QUERN_DCHECK(in.rows == static_cast<int64_t>(target.size()) && target.size() == weight.size());
  begin_op();
  note(run_scatter_add(out, in, target, weight));
}

/// Each target's entries in a list of its own, in their order, so that its sum has one order.
Result<> CudaBackend::run_scatter_add(Tensor out, Tensor in, std::span<const int32_t> target,
                                      std::span<const float> weight) {
  if (target.empty()) return {};
  std::vector<int32_t> entry(target.size()), first, targets;
  std::iota(entry.begin(), entry.end(), 0);
  const auto target_of = [&](int32_t e) { return target[static_cast<size_t>(e)]; };
  std::ranges::stable_sort(entry, {}, target_of);
  std::vector<float> weights;
  for (size_t i = 0; i < entry.size(); ++i) {
    if (i == 0 || target_of(entry[i]) != targets.back()) {
      first.push_back(static_cast<int32_t>(i));
      targets.push_back(target_of(entry[i]));
    }
    weights.push_back(weight[static_cast<size_t>(entry[i])]);
  }
  first.push_back(static_cast<int32_t>(entry.size()));
  ScatterArgs args{.out = rows_of(out), .in = rows_of(in), .targets = static_cast<int>(targets.size())};
  QUERN_TRY(args.target, uploads_.add(std::span<const int32_t>(targets)));
  QUERN_TRY(args.first, uploads_.add(std::span<const int32_t>(first)));
  QUERN_TRY(args.entry, uploads_.add(std::span<const int32_t>(entry)));
  QUERN_TRY(args.weight, upload(std::span<const float>(weights)));
  launch_scatter_add(args, device_->stream());
  return {};
}

void CudaBackend::read(float* host, Tensor in) {
  begin_op();
  const auto cols = static_cast<size_t>(in.cols), rows = static_cast<size_t>(in.rows);
  if (in.stride == in.cols)
    device_->read_rows(host, in.data, rows * cols * sizeof(float), rows * cols * sizeof(float), 1);
  else
    device_->read_rows(host, in.data, cols * sizeof(float), static_cast<size_t>(in.stride) * sizeof(float),
                       rows);
  Result<> done = device_->wait();
  if (!done || !failure_) std::fill_n(host, cols * rows, 0.0f);
  note(std::move(done));
  if (!step_) uploads_.reset();
}

bool CudaBackend::best_of_rows(std::span<BestOfRow> out, Tensor in, std::span<const float> scale) {
  QUERN_DCHECK(out.size() == static_cast<size_t>(in.rows) && scale.size() == out.size());
  begin_op();
  if (in.rows > 0) {
    Result<> done = run_best_of_rows(out, in, scale);
    if (!done || !failure_) std::ranges::fill(out, BestOfRow{});
    note(std::move(done));
  }
  if (!step_) uploads_.reset();
  return true;
}

Result<> CudaBackend::run_best_of_rows(std::span<BestOfRow> out, Tensor in, std::span<const float> scale) {
  QUERN_TRY(const float* scales, upload(scale));
  QUERN_TRY(BestOfRow * found, best_.take<BestOfRow>(out.size()));
  launch_best_of_rows(found, rows_of(in), scales, device_->stream());
  device_->read_rows(out.data(), found, out.size_bytes(), out.size_bytes(), 1);
  return device_->wait();
}

void CudaBackend::write(Tensor out, const float* host) {
  begin_op();
  device_->write_rows(out.data, host, static_cast<size_t>(out.cols) * sizeof(float),
                      static_cast<size_t>(out.stride) * sizeof(float), static_cast<size_t>(out.rows));
}

Result<std::unique_ptr<Backend>> make_device_backend(std::unique_ptr<Device> device,
                                                     const GpuOptions& options, bool tested) {
  auto backend = std::make_unique<CudaBackend>(std::move(device), options, tested);
  QUERN_TRY_VOID(backend->test());
  return backend;
}

}  // namespace quern::cuda
