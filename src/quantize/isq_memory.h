// ISQ with its result in memory alone.
#pragma once

#include <memory>

#include "core/file.h"
#include "quantize/isq.h"

namespace quern {

/// A model in another type that lies in memory, in two steps: `lay_out` gives what it will be (metadata,
/// types, shapes, sizes), so that memory can be planned and made free; `fill` quantizes. What `forget` is
/// told of goes back to the system.
class IsqInMemory final : public WeightSource {
 public:
  /// Nothing of the source's tensors is read, and the tensors to be take no memory yet.
  static Result<std::unique_ptr<IsqInMemory>> lay_out(std::unique_ptr<WeightSource> source,
                                                      const IsqOptions& options);
  ~IsqInMemory() override;
  IsqInMemory(const IsqInMemory&) = delete;
  IsqInMemory& operator=(const IsqInMemory&) = delete;

  /// Quantizes and lets go of the source. The tensors stay where they are.
  Result<QuantizeReport> fill(const IsqOptions& options, const std::stop_token& stop);

  const Metadata& metadata() const override { return result_->metadata(); }
  std::span<const RawTensor> tensors() const override { return result_->tensors(); }
  const RawTensor* find(std::string_view name) const override { return result_->find(name); }
  const std::string& name() const override { return name_; }
  uint64_t bytes() const override { return result_->bytes(); }
  bool holds_memory() const override { return true; }
  void forget(std::span<const std::byte> data) const override;

 private:
  IsqInMemory(std::unique_ptr<WeightSource> source, std::string name)
      : source_(std::move(source)), name_(std::move(name)) {}
  Result<> open();

  std::unique_ptr<WeightSource> source_;  // null once filled
  const std::string name_;
  Descriptor file_;  // without a name: memory that pages can be taken out of
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::unique_ptr<WeightSource> result_;  // over data_
};

}  // namespace quern
