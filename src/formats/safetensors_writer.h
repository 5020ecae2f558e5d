// Writes a checkpoint folder: safetensors in shards, their index, and the text files beside them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"

namespace quern::safetensors {

/// A tensor to be written. `dtype` is the file's name for it: "F32", "F16", "BF16", "I32", "U8" …
struct NewTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;  // outermost first

  /// Bytes of its data; invalid_argument on an unknown dtype or an impossible shape.
  Result<uint64_t> bytes() const;
};

struct WriterOptions {
  /// A shard takes whole tensors up to this many bytes (or one that is larger by itself): what Hugging Face's
  /// tools take.
  uint64_t shard_bytes = 5'000'000'000;
};

/// The folder appears whole or not at all: everything is written into a temporary folder beside it, synced,
/// and renamed. What a killed process leaves is that temporary folder, `<folder>.<process>.<n>.tmp`.
///
/// One shard is called model.safetensors; several are model-00001-of-0000N.safetensors, with
/// model.safetensors.index.json. In a shard the tensors of wide types come first, so that all are aligned.
class CheckpointWriter {
 public:
  /// The folder must not be there, or be empty. Headers are written, and the files take their full size (as
  /// holes), so that names and shapes that cannot be are refused at once.
  static Result<std::unique_ptr<CheckpointWriter>> create(const std::filesystem::path& folder,
                                                          std::vector<NewTensor> tensors,
                                                          const WriterOptions& options = {});
  /// Without finish(): removes the temporary folder.
  virtual ~CheckpointWriter() = default;

  /// Bytes [offset, offset + data.size()) of a tensor, by its place in `tensors`; each to be written once,
  /// from any thread.
  virtual Result<> write_at(size_t tensor, uint64_t offset, std::span<const std::byte> data) = 0;
  /// A file beside the weights ("config.json").
  virtual Result<> add_file(const std::string& name, std::string_view content) = 0;
  /// Shards, in order.
  virtual const std::vector<std::string>& shards() const = 0;
  /// All data must have been written. Syncs everything and gives the folder its name.
  virtual Result<> finish() = 0;
};

}  // namespace quern::safetensors
