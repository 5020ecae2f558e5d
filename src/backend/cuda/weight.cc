#include "backend/cuda/weight.h"

#include <mutex>

#include "core/buffer.h"
#include "core/system.h"
#include "core/thread_pool.h"

namespace quern::cuda {
namespace {

int64_t experts_of(const RawTensor& tensor) { return tensor.shape.size() == 3 ? tensor.shape[0] : 1; }

/// Where the parts of a stack lie in one allocation, each on 256 bytes.
struct Parts {
  size_t codes = 0, heads = 0, supers = 0, factor = 0, total = 0;
  Parts(const PackPlan& plan, int64_t experts) {
    const auto next = [&](int64_t words) {
      const size_t at = total;
      total += (static_cast<size_t>(experts * words) * 4 + 255) / 256 * 256;
      return at;
    };
    codes = next(plan.code_words());
    heads = next(plan.head_words());
    supers = next(plan.super_words());
    factor = next(plan.factors());
  }
};

/// Packing is a matter of seconds for a whole model, so all cores help. One tensor at a time.
template <class Body>
void on_all_cores(int64_t parts, const Body& body) {
  static std::mutex mutex;
  static ThreadPool pool(physical_cores());
  const std::lock_guard lock(mutex);
  pool.for_parts(parts, [&](int, int64_t part) { body(part); });
}

}  // namespace

void CudaWeight::describe(const RawTensor& tensor) {
  experts = experts_of(tensor);
  rows = tensor.shape[tensor.shape.size() - 2];
  cols = tensor.cols();
  dtype = tensor.dtype;
}

template <class Tile>
Result<> CudaWeight::fill(const PackPlan& plan, const std::shared_ptr<Device>& device, const Tile& tile) {
  const Parts parts(plan, experts);
  QUERN_TRY(memory_, Allocation::of(device, parts.total));
  QUERN_TRY(Buffer host, Buffer::allocate(parts.total));
  const auto words_of = [&](size_t part) { return reinterpret_cast<uint32_t*>(host.data() + part); };
  on_all_cores(experts * plan.tiles, [&](int64_t part) {
    const int64_t expert = part / plan.tiles;
    tile(expert, static_cast<int>(part % plan.tiles),
         PackOutput{words_of(parts.codes) + expert * plan.code_words(),
                    words_of(parts.heads) + expert * plan.head_words(),
                    words_of(parts.supers) + expert * plan.super_words(),
                    reinterpret_cast<float*>(words_of(parts.factor)) + expert * plan.factors()});
  });
  QUERN_TRY_VOID(device->load(memory_.as<void>(), host.data(), parts.total));
  const auto* base = memory_.as<std::byte>();
  form_ = plan.form;
  kernels_ = matmul_kernels(plan.form);
  packed_ = plan.shape();
  packed_.codes = reinterpret_cast<const uint32_t*>(base + parts.codes);
  packed_.heads = reinterpret_cast<const uint32_t*>(base + parts.heads);
  packed_.supers = reinterpret_cast<const uint32_t*>(base + parts.supers);
  packed_.factor = reinterpret_cast<const float*>(base + parts.factor);
  return {};
}

Result<std::unique_ptr<CudaWeight>> CudaWeight::pack(const RawTensor& tensor,
                                                     const std::shared_ptr<Device>& device) {
  auto weight = std::make_unique<CudaWeight>();
  weight->describe(tensor);
  const QuantInfo& info = *find_quant(tensor.dtype);
  const PackPlan plan = pack_plan(info, weight->rows, weight->cols);
  const size_t matrix_bytes = tensor.data.size() / static_cast<size_t>(weight->experts);
  QUERN_TRY_VOID(weight->fill(plan, device, [&](int64_t expert, int tile, const PackOutput& out) {
    pack_tile(plan, info, tensor.data.data() + static_cast<size_t>(expert) * matrix_bytes, tile, out);
  }));
  return weight;
}

Result<std::shared_ptr<const InputOrder>> InputOrders::share(std::vector<int32_t> columns,
                                                             const std::shared_ptr<Device>& device) {
  const std::lock_guard lock(mutex_);
  std::erase_if(known_, [](const auto& order) { return order.expired(); });
  for (const auto& known : known_) {
    if (auto same = known.lock(); same != nullptr && same->columns == columns) return same;
  }
  auto order = std::make_shared<InputOrder>();
  const size_t bytes = columns.size() * sizeof(int32_t);
  QUERN_TRY(order->memory, Allocation::of(device, bytes));
  QUERN_TRY_VOID(device->load(order->memory.as<void>(), columns.data(), bytes));
  order->columns = std::move(columns);
  known_.push_back(order);
  return order;
}

Result<std::unique_ptr<CudaWeight>> CudaWeight::pack_grouped(const RawTensor& tensor,
                                                             const std::shared_ptr<Device>& device,
                                                             InputOrders& orders) {
  const GroupedMatrix& matrix = *tensor.grouped;
  auto weight = std::make_unique<CudaWeight>();
  weight->rows = matrix.rows;
  weight->cols = matrix.cols;
  weight->dtype = tensor.dtype;
  GroupedPlan plan = pack_plan(matrix);
  QUERN_TRY_VOID(weight->fill(
      plan, device, [&](int64_t, int tile, const PackOutput& out) { pack_tile(plan, matrix, tile, out); }));
  if (!plan.order.empty()) {
    QUERN_TRY(weight->order_, orders.share(std::move(plan.order), device));
  }
  return weight;
}

Result<std::unique_ptr<CudaWeight>> CudaWeight::table(const RawTensor& tensor,
                                                      const std::shared_ptr<Device>& device) {
  auto weight = std::make_unique<CudaWeight>();
  weight->describe(tensor);
  weight->float_kind_ = tensor.dtype == DType::F32   ? FloatKind::f32
                        : tensor.dtype == DType::F16 ? FloatKind::f16
                                                     : FloatKind::bf16;
  QUERN_TRY(weight->memory_, Allocation::of(device, tensor.data.size()));
  QUERN_TRY_VOID(device->load(weight->memory_.as<void>(), tensor.data.data(), tensor.data.size()));
  return weight;
}

}  // namespace quern::cuda
