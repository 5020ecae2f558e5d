#include "quantize_gptq.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/log.h"
#include "eval/perplexity.h"
#include "fetch_model.h"
#include "job_progress.h"
#include "models/checkpoint.h"
#include "quantize/gptq_quantize.h"
#include "quantize/isq.h"
#include "text_file.h"

namespace quern {
namespace {

/// Less than this and the sums over the inputs say little about them.
constexpr int64_t kFewTokens = 8192;

struct Calibration {
  std::vector<int32_t> tokens;
  int32_t bos = -1;
};

/// The text's tokens; of a long text `samples` chunks, from all over it.
Result<Calibration> read_calibration(const GptqFlags& flags, const WeightSource& source) {
  QUERN_TRY(const std::string text, read_text_file("quantize", flags.calibration));
  QUERN_TRY(const auto tokenizer, Tokenizer::from_metadata(source.metadata()));
  const auto all = evaluation_tokens(*tokenizer, text);
  const int64_t chunks = static_cast<int64_t>(all.size()) / flags.context;
  if (chunks < 1)
    return fail(
        ErrorCode::invalid_argument,
        "quantize: {}: {} tokens, but a sequence of {} is needed: give a longer text or a smaller --ctx",
        flags.calibration, all.size(), flags.context);
  Calibration calibration{.bos = tokenizer->add_bos() ? tokenizer->bos() : -1};
  const int64_t taken = std::min(chunks, flags.samples);
  for (int64_t i = 0; i < taken; ++i) {
    const auto begin = all.begin() + i * chunks / taken * flags.context;
    calibration.tokens.insert(calibration.tokens.end(), begin, begin + flags.context);
  }
  if (static_cast<int64_t>(calibration.tokens.size()) < kFewTokens)
    log::warn("the calibration text is short: a longer one gives a better result",
              {{"file", flags.calibration}, {"tokens", calibration.tokens.size()}});
  return calibration;
}

Result<> check_source(const WeightSource& source, const std::string& reference) {
  std::error_code ignored;
  if (std::filesystem::is_directory(source.name(), ignored) && is_checkpoint(source.name()) &&
      is_full_precision(source))
    return {};
  return fail(ErrorCode::invalid_argument,
              "quantize: {}: a GPTQ checkpoint is made from a Hugging Face checkpoint in full precision "
              "(a folder with config.json and .safetensors)",
              reference);
}

double bits_per_weight(const GptqReport& report) {
  double bytes = 0, weights = 0;
  for (const GptqTensor& tensor : report.tensors) {
    if (!tensor.quantized) continue;
    bytes += static_cast<double>(tensor.bytes);
    weights += static_cast<double>(tensor.shape[0] * tensor.shape[1]);
  }
  return weights > 0 ? 8 * bytes / weights : 0;
}

void print_report(const std::string& destination, const GptqReport& report, bool json) {
  if (!json) {
    fmt::print("{}: {}, quantized matrices {:.2f} bits a weight; {:.1f} s\n", destination,
               human_bytes(report.bytes), bits_per_weight(report), report.seconds);
    return;
  }
  auto tensors = nlohmann::ordered_json::array();
  for (const GptqTensor& tensor : report.tensors) {
    nlohmann::ordered_json entry = {{"name", tensor.name}, {"shape", tensor.shape}, {"bytes", tensor.bytes}};
    entry["quantized"] = tensor.quantized;
    if (tensor.quantized) {
      entry["inputs_seen"] = tensor.inputs_seen;
      entry["error"] = tensor.weight_error;
      entry["output_error"] = tensor.output_error;
    }
    tensors.push_back(std::move(entry));
  }
  const nlohmann::ordered_json all = {
      {"folder", destination},     {"source_bytes", report.source_bytes},
      {"bytes", report.bytes},     {"bits_per_weight", bits_per_weight(report)},
      {"seconds", report.seconds}, {"tensors", std::move(tensors)}};
  print_json(all);
}

}  // namespace

void GptqFlags::add_to(Arguments command) {
  command.heading("GPTQ (gptq-4bit-128g, gptq-4bit-channel …)");
  command.text("--calibration", calibration,
               "a text of the kind that the model is for; not the one that it will be measured on");
  command.flag("--act-order", act_order, "groups of inputs of like importance: better, but slower to run");
  command.flag("--asym", asymmetric, "groups have zero points of their own");
  command.number("--samples", samples, {1, 1 << 20}, "most sequences that are taken from the text");
  command.number("--ctx", context, {8, 1 << 16}, "tokens of a sequence");
  command.heading("");  // what GPTQ is compared with: not for use
  command.flag("--rtn", round_to_nearest, "round to nearest, without calibration");
}

std::string GptqFlags::given() const {
  return !calibration.empty() ? "--calibration"
         : act_order          ? "--act-order"
         : asymmetric         ? "--asym"
         : round_to_nearest   ? "--rtn"
                              : "";
}

Result<> quantize_to_gptq(const CommonFlags& common, const GptqFlags& flags, const std::string& reference,
                          const std::string& destination, const std::string& type, bool json) {
  QUERN_TRY(const Config config, common.load(true));
  GptqOptions options;
  QUERN_TRY(options.format, parse_gptq_type(type));
  options.format.act_order = flags.act_order;
  options.format.symmetric = !flags.asymmetric;
  options.round_to_nearest = flags.round_to_nearest;
  if (flags.calibration.empty() && !flags.round_to_nearest)
    return fail(ErrorCode::invalid_argument,
                "quantize: {} needs --calibration TEXT: some hundred kilobytes of the kind of text that the "
                "model is for",
                type);
  QUERN_TRY(const ModelFiles files, local_model(common, config, reference));
  QUERN_TRY(const auto source, open_model_source(files, config.model_path));
  QUERN_TRY_VOID(check_source(*source, reference));
  Calibration calibration;
  if (!flags.round_to_nearest) {
    QUERN_TRY(calibration, read_calibration(flags, *source));
  }
  options.tokens = calibration.tokens;
  options.bos = calibration.bos;
  options.context = flags.context;
  options.threads = config.threads;
  options.text_folder = files.tokenizer_folder;
  options.version = QUERN_VERSION;
  JobProgress shown("quantizing", reference);
  options.progress = [&](uint64_t done, uint64_t total) {
    shown.update(done, total);
    return true;
  };
  QUERN_TRY(const GptqReport report, gptq_quantize(*source, destination, options));
  shown.finish();
  for (const std::string& name : report.unseen)
    log::warn("no token of the calibration text came to this expert: rounded to nearest", {{"tensor", name}});
  print_report(destination, report, json);
  return {};
}

}  // namespace quern
