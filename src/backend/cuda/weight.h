// Weights and vectors on the GPU.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/pack.h"

namespace quern::cuda {

/// The order of a grouped matrix's columns, on the device.
struct InputOrder {
  std::vector<int32_t> columns;
  Allocation memory;
};

/// Orders in use: matrices that are multiplied by the same input, with the same order, share one.
class InputOrders {
 public:
  Result<std::shared_ptr<const InputOrder>> share(std::vector<int32_t> columns,
                                                  const std::shared_ptr<Device>& device);

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<const InputOrder>> known_;
};

class CudaWeight final : public Weight {
 public:
  size_t bytes() const override { return memory_.bytes(); }
  SourceUse source_use() const override { return SourceUse::never; }

  const Form& form() const { return form_; }
  /// Null when the weight is a table of floats, which only embed reads.
  const MatmulKernels* kernels() const { return kernels_; }
  const Packed& packed() const { return packed_; }
  FloatKind float_kind() const { return float_kind_; }
  const void* floats() const { return memory_.as<void>(); }
  /// On the device: column k multiplies activation order()[k], none where that is negative. Null: k.
  const int32_t* order() const { return order_ != nullptr ? order_->memory.as<int32_t>() : nullptr; }

  /// Packs all matrices of a checked tensor and uploads them.
  static Result<std::unique_ptr<CudaWeight>> pack(const RawTensor& tensor,
                                                  const std::shared_ptr<Device>& device);
  /// Likewise a matrix in groups (tensor.grouped), whose order is taken from `orders`, or added to them.
  static Result<std::unique_ptr<CudaWeight>> pack_grouped(const RawTensor& tensor,
                                                          const std::shared_ptr<Device>& device,
                                                          InputOrders& orders);
  /// A table of F32, F16 or BF16 as it is.
  static Result<std::unique_ptr<CudaWeight>> table(const RawTensor& tensor,
                                                   const std::shared_ptr<Device>& device);

 private:
  void describe(const RawTensor& tensor);
  /// Calls `tile(expert, tile, output)` for all of them, from all cores, and uploads what they wrote.
  template <class Tile>
  Result<> fill(const PackPlan& plan, const std::shared_ptr<Device>& device, const Tile& tile);

  Form form_;
  const MatmulKernels* kernels_ = nullptr;
  Packed packed_;
  FloatKind float_kind_ = FloatKind::f32;
  Allocation memory_;
  std::shared_ptr<const InputOrder> order_;
};

class CudaVector final : public Vector {
 public:
  CudaVector(std::vector<float> values, Allocation memory)
      : values_(std::move(values)), memory_(std::move(memory)) {}
  std::span<const float> host() const override { return values_; }
  const float* device() const { return memory_.as<float>(); }

 private:
  std::vector<float> values_;
  Allocation memory_;
};

// ---- cuda_matmul.cc
/// How `narrow` is launched: warps that share a tile's K, tiles of a block, threads of a block.
struct NarrowGrid {
  int share = 1, tiles = 1, threads = 32;
};
NarrowGrid narrow_grid(int units, int tiles, int multiprocessors);
/// A product of these activations, its targets left open.
MatmulArgs matmul_args(const ActivationArgs& a);

}  // namespace quern::cuda
