// Makes an importance matrix: runs a text through a model and looks at what goes into its matrices.
#pragma once

#include <functional>
#include <span>

#include "backend/backend.h"
#include "formats/weight_source.h"
#include "quantize/imatrix.h"

namespace quern {

/// `tokens` are cut into chunks of `context`, each run by itself (what fills no chunk at the end is left
/// out); with `bos` ≥ 0 each chunk's first token is replaced by it. Entries have GGUF's names, also for a
/// checkpoint. `progress` gets chunks done and in all; false cancels. Fails when the text is shorter than one
/// chunk.
Result<ImportanceMatrix> collect_imatrix(
    Backend& backend, const WeightSource& source, std::span<const int32_t> tokens, int64_t context,
    int32_t bos, const std::function<bool(int64_t done, int64_t total)>& progress = {});

}  // namespace quern
