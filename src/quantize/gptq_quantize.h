// From a full-precision checkpoint to a GPTQ checkpoint.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors_writer.h"
#include "formats/weight_source.h"
#include "quantize/gptq_grid.h"

namespace quern {

struct GptqOptions {
  GptqFormat format;
  /// Round to nearest on the same grids: what GPTQ is compared with. No text is needed.
  bool round_to_nearest = false;
  std::span<const int32_t> tokens;  // the calibration text's
  int64_t context = 512;            // they are cut into sequences of so many
  int32_t bos = -1;                 // replaces each sequence's first
  double damping = 0.01;            // of the mean of H's diagonal
  int threads = 0;                  // 0: physical cores
  /// Tokenizer, template and generation_config are copied from here; empty: from the checkpoint's folder.
  std::filesystem::path text_folder;
  safetensors::WriterOptions writer;
  /// Share that is done, in bytes of the source; false cancels.
  std::function<bool(uint64_t done, uint64_t total)> progress;
  std::string version;  // of this program, for the config
};

struct GptqTensor {
  std::string name;  // in the source
  std::vector<int64_t> shape;
  uint64_t bytes = 0;  // of all that it became
  bool quantized = false;
  int64_t inputs_seen = 0;                    // of the calibration text
  double weight_error = 0, output_error = 0;  // see GptqMatrix
};

struct GptqReport {
  std::vector<GptqTensor> tensors;  // in the source's order
  std::vector<std::string> unseen;  // experts that no token reached: rounded to nearest
  uint64_t source_bytes = 0, bytes = 0;
  double seconds = 0;
};

/// Quantizes the matrices of all layers (embedding, head, norms and router stay as they are) and writes the
/// checkpoint: safetensors, config.json with quantization_config, quantize_config.json, and copies of the
/// text files. Whole or not at all: see safetensors::CheckpointWriter. `source` was opened from a folder by
/// open_checkpoint.
///
/// Fails with invalid_argument when the destination is there, or a matrix does not fit the format (groups
/// that do not divide its inputs, rows or columns that are no multiple of 32), naming the tensor; corrupt on
/// weights that are not finite; cancelled; io.
Result<GptqReport> gptq_quantize(const WeightSource& source, const std::filesystem::path& destination,
                                 const GptqOptions& options);

}  // namespace quern
