// How well a model predicts a text: perplexity as llama.cpp defines it, and how far one model's predictions
// are from another's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "text/tokenizer.h"

namespace quern {

/// A mean and its standard error.
struct Estimate {
  double value = 0;
  double error = 0;
};

struct PerplexityReport {
  int64_t text_tokens = 0;  // of the whole text
  int64_t counted = 0;      // of them, predicted and counted
  int64_t chunks = 0;
  Estimate perplexity;
  // Against a second model; counted over the same positions.
  Estimate reference_perplexity;
  Estimate kl_divergence;  // KL(reference ‖ model), nats
  Estimate same_top;       // share of positions where both like the same token best, 0 to 1
};

/// Called after each chunk with the report so far; false cancels.
using PerplexityProgress = std::function<bool(const PerplexityReport& so_far, int64_t chunks_total)>;

/// The text's tokens as evaluation wants them: with the model's own beginning, special tokens not parsed.
std::vector<int32_t> evaluation_tokens(const Tokenizer& tokenizer, std::string_view text);

struct PerplexityOptions {
  int64_t context = 512;         // tokens of a chunk
  int32_t bos = -1;              // ≥ 0: each chunk's first token is replaced by it
  KvType kv_type = KvType::f16;  // of the model's cache; the reference's is f16
};

/// Cuts `tokens` into chunks, each run by itself; the tokens after a chunk's middle count, and what fills no
/// chunk at the end is left out. The perplexity is exp of the mean of −ln p; its error is that of the mean,
/// times the perplexity.
///
/// `reference` may be null; otherwise it must have the same vocabulary. Fails when the text is shorter than
/// two chunks, the vocabularies differ, or progress cancels.
Result<PerplexityReport> measure_perplexity(Backend& backend, Model& model, Model* reference,
                                            std::span<const int32_t> tokens, const PerplexityOptions& options,
                                            const PerplexityProgress& progress = {});

}  // namespace quern
