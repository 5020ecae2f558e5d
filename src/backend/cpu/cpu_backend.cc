#include "backend/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "backend/cpu/attention.h"
#include "backend/cpu/check_grouped.h"
#include "core/check.h"
#include "core/system.h"
#include "quant/stored.h"

namespace quern::cpu {
namespace {

class CpuBuffer final : public DeviceBuffer {
 public:
  explicit CpuBuffer(Buffer buffer) : buffer_(std::move(buffer)) {}
  void* data() override { return buffer_.data(); }
  size_t size() const override { return buffer_.size(); }

 private:
  Buffer buffer_;
};

uint64_t next_vector_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

/// The kernels read it as it lies in the file: a type of theirs, and aligned (a file need not be).
bool native_float(const RawTensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.data.data());
  if (tensor.dtype == DType::F32) return address % 4 == 0;
  return (tensor.dtype == DType::F16 || tensor.dtype == DType::BF16) && address % 2 == 0;
}

const CpuWeight& cpu_weight(const Weight& weight) { return static_cast<const CpuWeight&>(weight); }

}  // namespace

CpuVector::CpuVector(std::vector<float> values) : id(next_vector_id()), values_(std::move(values)) {}

bool KeepBudget::take(size_t bytes) {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  bytes_ = std::min(kMost, bytes_ + kRate * seconds);
  if (bytes_ < 0) return false;
  bytes_ -= static_cast<double>(bytes);  // below 0, perhaps: a large matrix has its turn, too
  return true;
}

CpuBackend::CpuBackend(const Kernels& kernels, int threads, bool keep_packed)
    : kernels_(kernels),
      pool_(threads),
      scratch_(static_cast<size_t>(threads)),
      packer_(keep_packed ? std::make_shared<Packer>(kernels) : nullptr) {}

std::string CpuBackend::description() const {
  return fmt::format("cpu ({}, {} thread{})", kernels_.name, pool_.size(), pool_.size() == 1 ? "" : "s");
}

float* CpuBackend::scratch(int thread, int64_t floats) {
  auto& lines = scratch_[static_cast<size_t>(thread)].sums;
  const size_t need = static_cast<size_t>(floats + 15) / 16;
  if (lines.size() < need) lines.resize(need);
  return lines.data()->f;
}

uint8_t* CpuBackend::tile_scratch(int thread, int64_t bytes) {
  auto& lines = scratch_[static_cast<size_t>(thread)].tile;
  const size_t need = static_cast<size_t>(bytes) / sizeof(Line) + 2;  // loads may reach one vector beyond
  if (lines.size() < need) lines.resize(need);
  return reinterpret_cast<uint8_t*>(lines.data());
}

void CpuBackend::settle() {
  if (packer_ != nullptr) packer_->wait_until_idle();
}

Result<std::unique_ptr<DeviceBuffer>> CpuBackend::alloc(size_t bytes) {
  QUERN_TRY(Buffer buffer, Buffer::allocate(bytes));
  return std::make_unique<CpuBuffer>(std::move(buffer));
}

Result<std::unique_ptr<CpuWeight>> CpuBackend::weight_of(const RawTensor& tensor) const {
  QUERN_TRY_VOID(check_matrix(tensor));
  auto weight = std::make_unique<CpuWeight>();
  weight->raw = tensor;
  weight->experts = tensor.shape.size() == 3 ? tensor.shape[0] : 1;
  weight->rows = tensor.shape[tensor.shape.size() - 2];
  weight->cols = tensor.cols();
  weight->dtype = tensor.dtype;
  return weight;
}

Result<std::unique_ptr<Weight>> CpuBackend::prepare_table(const RawTensor& tensor) {
  if (tensor.grouped != nullptr) return prepare_grouped(tensor);  // no such table is known: not worth a path
  QUERN_TRY(auto weight, weight_of(tensor));
  weight->table_only = true;
  return weight;
}

std::shared_ptr<const InputOrder> CpuBackend::shared_order(std::shared_ptr<const InputOrder> order) {
  if (order == nullptr) return order;
  const std::lock_guard lock(orders_mutex_);
  std::erase_if(orders_, [](const auto& known) { return known.expired(); });
  for (const auto& known : orders_) {
    if (auto same = known.lock(); same != nullptr && *same == *order) return same;
  }
  orders_.push_back(order);
  return order;
}

Result<std::unique_ptr<Weight>> CpuBackend::prepare_grouped(const RawTensor& tensor) {
  const GroupedMatrix& matrix = *tensor.grouped;
  if (tensor.shape != std::vector<int64_t>{matrix.rows, matrix.cols})
    return fail(ErrorCode::invalid_argument, "tensor {}: its shape is not that of its parts", tensor.name);
  auto weight = std::make_unique<CpuWeight>();
  weight->raw = tensor;
  weight->rows = matrix.rows;
  weight->cols = matrix.cols;
  weight->dtype = tensor.dtype;
  GroupedPlan plan = plan_grouped(matrix);
  plan.order = shared_order(std::move(plan.order));
  weight->set_grouped(std::move(plan), packer_);
  QUERN_TRY_VOID(check_grouped(kernels_, *weight));
  return weight;
}

Result<std::unique_ptr<Weight>> CpuBackend::prepare(const RawTensor& tensor) {
  if (tensor.grouped != nullptr) return prepare_grouped(tensor);
  QUERN_TRY(auto weight, weight_of(tensor));
  if (native_float(tensor)) return weight;
  if (weight->set_affine(packer_)) return weight;
  // Rare (a float matrix that lies askew in its file), and not by the pool: another model may be using it.
  QUERN_TRY(float* out, weight->hold_floats());
  decode_rows(tensor, 0, tensor.rows(), out);
  return weight;
}

uint64_t CpuBackend::prepared_bytes(const RawTensor& tensor) const {
  if (tensor.grouped != nullptr) {
    if (packer_ == nullptr) return stored_bytes(tensor);
    return CpuWeight::tile_bytes(plan_grouped(*tensor.grouped).layout, tensor);
  }
  const QuantInfo* info = find_quant(tensor.dtype);
  if (info == nullptr || native_float(tensor)) return tensor.data.size();
  const auto layout = packed_layout(*info, tensor.cols());
  if (!layout) return static_cast<uint64_t>(tensor.elements()) * sizeof(float);
  if (packer_ == nullptr) return tensor.data.size();
  return CpuWeight::tile_bytes(*layout, tensor);
}

Result<std::unique_ptr<Vector>> CpuBackend::prepare_vector(const RawTensor& tensor) {
  QUERN_TRY(std::vector<float> values, decode_vector(tensor));
  return std::make_unique<CpuVector>(std::move(values));
}

Result<std::unique_ptr<Vector>> CpuBackend::prepare_vector(std::span<const float> values) {
  return std::make_unique<CpuVector>(std::vector<float>(values.begin(), values.end()));
}

void CpuBackend::embed(Tensor out, const Weight& table, std::span<const int32_t> ids) {
  const CpuWeight& weight = cpu_weight(table);
  QUERN_DCHECK(out.rows == static_cast<int64_t>(ids.size()) && out.cols == weight.cols);
  for_rows(out.rows, [&](int64_t r) {
    const int32_t id = ids[static_cast<size_t>(r)];
    QUERN_DCHECK(id >= 0 && id < weight.rows);
    decode_rows(weight.raw, id, 1, out.data + r * out.stride);
  });
}

void CpuBackend::rms_norm(Tensor out, Tensor in, const Vector& gain, float eps) {
  const std::span<const float> g = gain.host();
  const int64_t group = static_cast<int64_t>(g.size());
  QUERN_DCHECK(out.rows == in.rows && out.cols == in.cols && in.cols % group == 0);
  for_rows(in.rows, [&](int64_t r) {
    for (int64_t c = 0; c < in.cols; c += group)
      kernels_.rms_norm(out.data + r * out.stride + c, in.data + r * in.stride + c, g.data(), group, eps);
  });
}

void CpuBackend::silu_mul(Tensor out, Tensor gate, Tensor up) {
  QUERN_DCHECK(out.rows == gate.rows && out.rows == up.rows && out.cols == gate.cols && out.cols == up.cols);
  for_rows(out.rows, [&](int64_t r) {
    kernels_.silu_mul(out.data + r * out.stride, gate.data + r * gate.stride, up.data + r * up.stride,
                      out.cols);
  });
}

void CpuBackend::add(Tensor out, Tensor in) {
  QUERN_DCHECK(out.rows == in.rows && out.cols == in.cols);
  for_rows(out.rows,
           [&](int64_t r) { kernels_.add(out.data + r * out.stride, in.data + r * in.stride, out.cols); });
}

void CpuBackend::gather_rows(Tensor out, Tensor in, std::span<const int32_t> rows) {
  QUERN_DCHECK(out.rows == static_cast<int64_t>(rows.size()) && out.cols == in.cols);
  for (int64_t r = 0; r < out.rows; ++r)
    std::memcpy(out.data + r * out.stride, in.data + rows[static_cast<size_t>(r)] * in.stride,
                static_cast<size_t>(in.cols) * sizeof(float));
}

void CpuBackend::scatter_add(Tensor out, Tensor in, std::span<const int32_t> target,
                             std::span<const float> weight) {
  QUERN_DCHECK(in.rows == static_cast<int64_t>(target.size()) && target.size() == weight.size());
  // Split by columns: two rows may have the same target.
  pool_.parallel_for(in.cols, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < in.rows; ++r)
      kernels_.add_scaled(out.data + target[static_cast<size_t>(r)] * out.stride + begin,
                          in.data + r * in.stride + begin, weight[static_cast<size_t>(r)], end - begin);
  });
}

void CpuBackend::read(float* host, Tensor in) {
  for (int64_t r = 0; r < in.rows; ++r)
    std::memcpy(host + r * in.cols, in.data + r * in.stride, static_cast<size_t>(in.cols) * sizeof(float));
}

void CpuBackend::write(Tensor out, const float* host) {
  for (int64_t r = 0; r < out.rows; ++r)
    std::memcpy(out.data + r * out.stride, host + r * out.cols,
                static_cast<size_t>(out.cols) * sizeof(float));
}

}  // namespace quern::cpu

namespace quern {

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  QUERN_TRY(const cpu::Kernels* kernels, cpu::choose_kernels(options.isa));
  const int threads = options.threads > 0 ? options.threads : physical_cores();
  auto backend = std::make_unique<cpu::CpuBackend>(*kernels, threads, options.keep_packed);
  if (backend->threads() < std::min(threads, ThreadPool::kMostThreads))
    return fail(ErrorCode::resource_exhausted,
                "LLM_THREADS: {}: the system gives only {}: set fewer, or raise the limit on processes",
                threads, backend->threads());
  return backend;
}

}  // namespace quern
