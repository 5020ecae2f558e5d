// safetensors files, single or in shards. Format: huggingface.co/docs/safetensors: eight bytes with the
// length of a JSON header, the header ({"name": {"dtype", "shape", "data_offsets"}}), then the data.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/result.h"
#include "core/tensor.h"

namespace quern::safetensors {

/// Limits that no honest file comes near.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference library has it
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;
constexpr size_t kMaxTensors = 1'000'000;  // in a file or an index
constexpr size_t kMaxShards = 4096;
constexpr size_t kMaxDimensions = 16;

/// A tensor of a type that is not computed with here: buffers of integers, packed weights, F8.
struct ForeignTensor {
  std::string name;
  std::string dtype;  // as the file names it: "I32", "F8_E4M3"
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

/// Views of a file's bytes, in the order of their offsets. The data need not be aligned.
struct Tensors {
  std::vector<RawTensor> tensors;  // F32, F16, BF16
  std::vector<ForeignTensor> foreign;
};

/// A shard that is still on its way.
struct AbsentShard {
  std::string name;
  uint64_t size = 0;
  std::string head;  // its first bytes: `head_bytes` of them
};

/// All weights of a checkpoint. Move-only.
struct Checkpoint : Tensors {
  std::vector<MappedFile> files;
  std::vector<std::string> names;  // of the files
  /// io when a file was cut short or written to since it was opened; see MappedFile.
  Result<> check() const;
};

/// Checks everything that later code relies on: the header's length and nesting, offsets within the file and
/// not over each other, sizes that fit the shapes, no name twice. `name` is for messages.
Result<Tensors> parse(std::span<const std::byte> bytes, const std::string& name);

/// How far a file's header reaches, by its first eight bytes.
Result<uint64_t> head_bytes(std::string_view first, const std::string& name);

/// The files that `open` maps, in its order.
Result<std::vector<std::string>> weight_files(const std::filesystem::path& folder);

/// Maps the weights of a folder: the shards that its *.safetensors.index.json names, else model.safetensors,
/// else model-00001-of-0000N.safetensors and so on (all of them must be there), else every *.safetensors. No
/// tensor may be in two shards, and each that the index names must be in its shard. `absent` are taken as if
/// they lay in the folder: their tensors are not to be read before their file is filled.
Result<Checkpoint> open(const std::filesystem::path& folder, std::span<const AbsentShard> absent = {});

}  // namespace quern::safetensors
