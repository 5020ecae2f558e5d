#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "eval/chunk_runner.h"

namespace quern {
namespace {

/// Mean and standard error of values that come one by one (Welford's recurrence).
class RunningMean {
 public:
  void add(double value) {
    ++count_;
    const double delta = value - mean_;
    mean_ += delta / static_cast<double>(count_);
    squares_ += delta * (value - mean_);
  }
  Estimate estimate() const {
    const auto n = static_cast<double>(count_);
    return {mean_, count_ > 1 ? std::sqrt(squares_ / (n - 1) / n) : 0};
  }

 private:
  int64_t count_ = 0;
  double mean_ = 0, squares_ = 0;
};

/// ln of the sum of exp(logits).
double log_partition(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - top);
  return top + std::log(sum);
}

size_t best(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double kl_divergence(std::span<const float> reference, double reference_partition,
                     std::span<const float> model, double partition) {
  double sum = 0;
  for (size_t i = 0; i < model.size(); ++i) {
    const double log_p = reference[i] - reference_partition;
    sum += std::exp(log_p) * (log_p - (model[i] - partition));
  }
  return sum;
}

/// What has been counted so far.
struct Tally {
  RunningMean nll, reference_nll, kl, same;
  int64_t chunks = 0, counted = 0;

  /// `reference`: the other model's logits at the same position; may be empty.
  void add(std::span<const float> logits, std::span<const float> reference, int32_t next) {
    const double partition = log_partition(logits);
    nll.add(partition - logits[static_cast<size_t>(next)]);
    ++counted;
    if (reference.empty()) return;
    const double reference_partition = log_partition(reference);
    reference_nll.add(reference_partition - reference[static_cast<size_t>(next)]);
    kl.add(kl_divergence(reference, reference_partition, logits, partition));
    same.add(best(reference) == best(logits) ? 1 : 0);
  }

  PerplexityReport report(int64_t text_tokens) const {
    const auto perplexity_of = [](const RunningMean& mean) {
      const Estimate e = mean.estimate();
      return Estimate{std::exp(e.value), std::exp(e.value) * e.error};
    };
    return {.text_tokens = text_tokens,
            .counted = counted,
            .chunks = chunks,
            .perplexity = perplexity_of(nll),
            .reference_perplexity = perplexity_of(reference_nll),
            .kl_divergence = kl.estimate(),
            .same_top = same.estimate()};
  }
};

/// One chunk through both models, side by side.
Result<> add_chunk(std::span<const int32_t> chunk, ChunkRunner& runner, ChunkRunner* reference,
                   Tally& tally) {
  const auto size = static_cast<int64_t>(chunk.size());
  for (int64_t at = 0; at < size; at += ChunkRunner::kRows) {
    QUERN_TRY_VOID(runner.step(chunk, at, size / 2, size - 1));
    if (reference != nullptr) QUERN_TRY_VOID(reference->step(chunk, at, size / 2, size - 1));
    for (size_t i = 0; i < runner.rows().size(); ++i)
      tally.add(runner.logits(i), reference != nullptr ? reference->logits(i) : std::span<const float>(),
                chunk[static_cast<size_t>(at + runner.rows()[i] + 1)]);
  }
  ++tally.chunks;
  return {};
}

Result<> check(const Model& model, const Model* reference, size_t tokens, int64_t context) {
  if (context < 8)
    return fail(ErrorCode::invalid_argument, "a context of {} is too short: 8 or more", context);
  if (tokens < static_cast<size_t>(2 * context))
    return fail(
        ErrorCode::invalid_argument,
        "the text has {} tokens, but two chunks of {} are needed: give a longer text or a smaller --ctx",
        tokens, context);
  if (reference != nullptr && reference->config().vocab != model.config().vocab)
    return fail(
        ErrorCode::invalid_argument,
        "the two models have vocabularies of {} and {}: only models with the same one can be compared",
        model.config().vocab, reference->config().vocab);
  return {};
}

}  // namespace

std::vector<int32_t> evaluation_tokens(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, {.add_special = true, .parse_special = false});
}

Result<PerplexityReport> measure_perplexity(Backend& backend, Model& model, Model* reference,
                                            std::span<const int32_t> tokens, const PerplexityOptions& options,
                                            const PerplexityProgress& progress) {
  const int64_t context = options.context;
  QUERN_TRY_VOID(check(model, reference, tokens.size(), context));
  QUERN_TRY(ChunkRunner runner, ChunkRunner::create(backend, model, context, options.kv_type));
  std::optional<ChunkRunner> other;
  if (reference != nullptr) {
    QUERN_TRY(ChunkRunner created, ChunkRunner::create(backend, *reference, context));
    other = std::move(created);
  }
  const auto text_tokens = static_cast<int64_t>(tokens.size());
  const int64_t chunks = text_tokens / context;
  Tally tally;
  std::vector<int32_t> chunk;
  for (int64_t i = 0; i < chunks; ++i) {
    const auto begin = tokens.begin() + i * context;
    chunk.assign(begin, begin + context);
    if (options.bos >= 0) chunk.front() = options.bos;
    QUERN_TRY_VOID(add_chunk(chunk, runner, other ? &*other : nullptr, tally));
    if (progress && !progress(tally.report(text_tokens), chunks))
      return fail(ErrorCode::cancelled, "stopped after {} of {} chunks", tally.chunks, chunks);
  }
  return tally.report(text_tokens);
}

}  // namespace quern
