// GGUF files, versions 2 and 3, little-endian. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "formats/weight_source.h"

namespace quern {

/// Maps the file (and, for `…-00001-of-0000N.gguf`, all its parts, whichever part is named). Checks
/// everything that later code relies on: counts and sizes against the file's length before anything is
/// allocated, types, shapes, alignment, offsets in range, no name twice, all split parts there and of one
/// model. A file with a vocabulary and no tensors is fine. Errors name the file, the place and what is wrong.
/// Metadata is the first part's, without `split.*`; name() is the first part's path.
Result<std::unique_ptr<WeightSource>> open_gguf(const std::filesystem::path& path);

/// As open_gguf, over bytes in memory that outlive the source (the bundled model, the fuzzer). Not split.
Result<std::unique_ptr<WeightSource>> open_gguf(std::span<const std::byte> bytes, std::string name);

/// A tensor to be written.
struct GgufTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;  // outermost first
};

/// Writes a GGUF v3 file: everything but the tensors' data is given first, then the data in the same order
/// (`write`) or in any (`write_at`). The file appears whole (a file without a name where the system has that,
/// else a temporary one; fsync, rename) or not at all.
///
/// Metadata has forgotten how wide its values were, so they are written as llama.cpp expects them: unsigned
/// integers as u32 and signed ones as i32, or 64 bits wide where a value (or one of an array) does not fit;
/// floats always as f32; an empty array as its kind. A key whose type matters must be added as that kind:
/// counts as uint64_t, token types as int64_t.
class GgufWriter {
 public:
  /// Into an empty file that is open already and has no name to be given (memfd_create); the caller closes
  /// it.
  static Result<std::unique_ptr<GgufWriter>> create_in(int file, const Metadata& metadata,
                                                       std::vector<GgufTensor> tensors);
  static Result<std::unique_ptr<GgufWriter>> create(const std::filesystem::path& path,
                                                    const Metadata& metadata,
                                                    std::vector<GgufTensor> tensors);
  virtual ~GgufWriter() = default;
  /// Appends the next bytes of the current tensor; padding between tensors is there by itself.
  virtual Result<> write(std::span<const std::byte> data) = 0;
  /// Bytes [offset, offset + data.size()) of a tensor, each to be written once; from any thread.
  virtual Result<> write_at(size_t tensor, uint64_t offset, std::span<const std::byte> data) = 0;
  /// The same keys with other values of the same size: what is known only in the end.
  virtual Result<> replace_metadata(const Metadata& metadata) = 0;
  /// All data must have been written. Flushes, syncs and renames into place.
  virtual Result<> finish() = 0;
};

}  // namespace quern
