// A model's tensors as a GGUF file of it holds them: what a converter or a quantizer walks over.
#pragma once

#include <string>
#include <vector>

#include "formats/weight_source.h"
#include "models/arch.h"

namespace quern {

/// One tensor of the file to be. Its rows are those of `parts`, one part after the other, in the order that
/// `source_row` gives.
struct GgufTensorPlan {
  Role role = Role::token_embd;
  int64_t layer = -1;                   // -1: of the whole model
  std::string name;                     // "blk.3.attn_q.weight"
  std::vector<const RawTensor*> parts;  // one; of a stack of experts one per expert
  std::vector<int64_t> shape;           // outermost first

  /// GGUF's Llama wants the pairs that rope turns side by side, where checkpoints have the halves of each
  /// head: of every `head_rows` rows the first `rotated_rows` are regrouped. 0: rows stay where they are.
  int64_t head_rows = 0;
  int64_t rotated_rows = 0;

  /// The row of a part that becomes row `row` of that part in the file.
  int64_t source_row(int64_t row) const {
    const int64_t in_head = head_rows > 0 ? row % head_rows : 0;
    if (in_head >= rotated_rows) return row;
    return row - in_head + in_head / 2 + (in_head % 2) * (rotated_rows / 2);
  }
};

/// All tensors that the model uses, in the order of the file: embedding, layers, norm and head. (A source
/// that is GGUF already gives its own, as they are.) The metadata to go with them is the source's own. Fails
/// as load_model does when tensors are missing or misshapen.
Result<std::vector<GgufTensorPlan>> gguf_tensors(const WeightSource& source);

}  // namespace quern
