// Where weights come from, whatever the file format: named tensors and metadata.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/metadata.h"
#include "core/result.h"
#include "core/tensor.h"

namespace quern {

/// Immutable once open; the tensors' data stays valid as long as the source lives.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Keys as GGUF names them ("general.architecture", "llama.block_count", "tokenizer.ggml.tokens").
  virtual const Metadata& metadata() const = 0;
  virtual std::span<const RawTensor> tensors() const = 0;
  /// Null when there is none.
  virtual const RawTensor* find(std::string_view name) const = 0;
  /// For messages: the path of the (first) file.
  virtual const std::string& name() const = 0;
  /// Bytes of all tensors.
  virtual uint64_t bytes() const = 0;
  /// io when a file behind it was cut short or written to since it was opened: what has been read from the
  /// tensors may be anything, but reading them stays safe. Costs a system call a file.
  virtual Result<> check() const { return {}; }
  /// A hint: these bytes of a tensor will not be read again soon. Reading them stays possible.
  virtual void let_go(std::span<const std::byte> data) const {}
  /// True: the tensors' data takes memory that only this source can give back.
  virtual bool holds_memory() const { return false; }
  /// These bytes of a tensor will never be read again, by anybody: a source that holds memory gives it back.
  virtual void forget(std::span<const std::byte> data) const {}
};

}  // namespace quern
