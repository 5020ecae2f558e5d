// quern perplexity: how well a model predicts a text, and how far it is from another model.
#include "eval/perplexity.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "command.h"
#include "fetch_model.h"
#include "text_file.h"

namespace quern {
namespace {

struct PerplexityFlags {
  CommonFlags common;
  std::string model, file, against;
  int64_t context = 512;
  bool json = false;
};

struct Loaded {
  std::unique_ptr<WeightSource> source;
  std::unique_ptr<Model> model;
};

Result<Loaded> load(const CommonFlags& flags, const std::string& name, const Config& config, Backend& backend,
                    int64_t context) {
  QUERN_TRY(const ModelFiles files, local_model(flags, config, name));
  Loaded loaded;
  QUERN_TRY(loaded.source, open_model_source(files, config.model_path));
  ModelOptions options;
  options.context = context;
  QUERN_TRY(loaded.model, load_model(*loaded.source, backend, options));
  return loaded;
}

/// A bar on a terminal, else a line now and then.
bool show_progress(const PerplexityReport& so_far, int64_t total) {
  if (isatty(STDERR_FILENO) != 0) {
    constexpr int64_t kWidth = 30;
    const auto filled = static_cast<size_t>(kWidth * so_far.chunks / total);
    fmt::print(stderr, "\r[{:<30}] {}/{} chunks, perplexity {:.4f} ", std::string(filled, '#'), so_far.chunks,
               total, so_far.perplexity.value);
    if (so_far.chunks == total) fmt::print(stderr, "\n");
  } else if (so_far.chunks % 32 == 0) {
    fmt::print(stderr, "{}/{} chunks, perplexity {:.4f}\n", so_far.chunks, total, so_far.perplexity.value);
  }
  return true;
}

nlohmann::ordered_json as_json(const Estimate& estimate) {
  return {{"value", estimate.value}, {"error", estimate.error}};
}

void print_report(const PerplexityFlags& flags, const std::string& model, const PerplexityReport& report) {
  if (flags.json) {
    nlohmann::ordered_json json = {{"model", model},
                                   {"context", flags.context},
                                   {"chunks", report.chunks},
                                   {"tokens", report.text_tokens},
                                   {"tokens_counted", report.counted},
                                   {"perplexity", as_json(report.perplexity)}};
    if (!flags.against.empty())
      json["against"] = {{"model", flags.against},
                         {"perplexity", as_json(report.reference_perplexity)},
                         {"kl_divergence", as_json(report.kl_divergence)},
                         {"same_top", as_json(report.same_top)}};
    print_json(json);
    return;
  }
  fmt::print("perplexity      {:.4f} ± {:.4f}  ({} of {} tokens counted, chunks of {})\n",
             report.perplexity.value, report.perplexity.error, report.counted, report.text_tokens,
             flags.context);
  if (flags.against.empty()) return;
  fmt::print("against         {}: perplexity {:.4f} ± {:.4f}\n", flags.against,
             report.reference_perplexity.value, report.reference_perplexity.error);
  fmt::print("KL divergence   {:.6f} ± {:.6f}\n", report.kl_divergence.value, report.kl_divergence.error);
  fmt::print("same top token  {:.2f} ± {:.2f} %\n", 100 * report.same_top.value, 100 * report.same_top.error);
}

Result<> perplexity(const PerplexityFlags& flags) {
  QUERN_TRY(const Config config, flags.common.load(true));
  QUERN_TRY(const std::string text, read_text_file("perplexity", flags.file));
  QUERN_TRY(const auto backend, backend_of(config));
  QUERN_TRY(const KvType kv_type, kv_type_of(config, *backend));
  const std::string reference = model_or_default(flags.model, config);
  QUERN_TRY(const Loaded measured, load(flags.common, reference, config, *backend, flags.context));
  Loaded other;
  if (!flags.against.empty()) {
    QUERN_TRY(other, load(flags.common, flags.against, config, *backend, flags.context));
  }
  std::vector<std::string> warnings;
  QUERN_TRY(const auto tokenizer, Tokenizer::from_metadata(measured.source->metadata(), &warnings));
  for (const std::string& warning : warnings) log::warn(warning);
  const auto tokens = evaluation_tokens(*tokenizer, text);
  QUERN_TRY(
      const PerplexityReport report,
      measure_perplexity(
          *backend, *measured.model, other.model.get(), tokens,
          {.context = flags.context, .bos = tokenizer->add_bos() ? tokenizer->bos() : -1, .kv_type = kv_type},
          show_progress));
  print_report(flags, reference, report);
  return {};
}

}  // namespace

void add_perplexity(CommandLine& line) {
  auto flags = std::make_shared<PerplexityFlags>();
  Arguments command = line.add("perplexity", "how well a model predicts a text",
                               [flags] { return status_of(perplexity(*flags)); });
  command.text("MODEL", flags->model, "model reference (default: the first allowed model)");
  command.text("-f,--file", flags->file, "the text", Need::required);
  command.number("--ctx", flags->context, {8, 1 << 20}, "tokens of a chunk; the second half of each counts");
  command.text("--against", flags->against,
               "also the KL divergence from this model (its KV cache in f16), and how often both agree");
  command.flag("--json", flags->json, "print a JSON report");
  flags->common.add_to(command);
}

}  // namespace quern
