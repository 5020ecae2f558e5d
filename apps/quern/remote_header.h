// A model of the hub, opened without downloading it: its headers by ranged requests, its data as holes.
#pragma once

#include <filesystem>
#include <memory>

#include "formats/weight_source.h"
#include "hub/hub.h"

namespace quern {

/// What `open` made lies in a folder of its own, removed with this.
class RemoteHeader {
 public:
  /// Metadata and tensors are the model's (a checkpoint's without its tokenizer); the tensors' data reads as
  /// zeros.
  static Result<RemoteHeader> open(const Hub& hub, const RemoteModel& model);
  RemoteHeader(RemoteHeader&& other) noexcept;
  RemoteHeader& operator=(RemoteHeader&&) = delete;
  ~RemoteHeader();

  const WeightSource& source() const { return *source_; }

 private:
  RemoteHeader() = default;
  Result<> open_gguf_header(const Hub& hub, const RemoteModel& model);
  Result<> open_checkpoint_headers(const Hub& hub, const RemoteModel& model);
  std::filesystem::path folder_;
  std::unique_ptr<WeightSource> source_;
};

}  // namespace quern
