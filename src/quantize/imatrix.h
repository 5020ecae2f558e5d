// Importance matrices: how much each column of a weight matrix matters, as the mean square of the activations
// that a text sends through it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace quern {

struct ImportanceMatrix {
  struct Entry {
    /// [experts][columns]: sums of x² …
    std::vector<float> squares;
    /// … over this many rows of activations, for each expert (in llama.cpp's older files one for all).
    std::vector<float> counts;

    /// Mean squares of one matrix of the stack. An expert that no token reached: all ones.
    std::vector<float> mean(int64_t expert, int64_t columns) const;
  };
  std::map<std::string, Entry, std::less<>> entries;  // by GGUF's names: "blk.0.attn_q.weight"
  std::vector<std::string> datasets;                  // what text, for the record
  int64_t chunks = 0, chunk_tokens = 0;

  const Entry* find(std::string_view name) const;
};

/// Reads llama.cpp's files: GGUF with `general.type` "imatrix" (tensors NAME.in_sum2 and NAME.counts), and
/// the older binary form (for each matrix: name, number of calls, values).
Result<ImportanceMatrix> read_imatrix(const std::filesystem::path& path);

/// Writes the GGUF form; whole or not at all.
Result<> write_imatrix(const ImportanceMatrix& matrix, const std::filesystem::path& path);

}  // namespace quern
