// quern quantize: a model in other types, as a GGUF file or a GPTQ checkpoint.
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "command.h"
#include "fetch_model.h"
#include "job_progress.h"
#include "quant/quant.h"
#include "quantize/gptq_grid.h"
#include "quantize/quantizer.h"
#include "quantize_gptq.h"

namespace quern {
namespace {

struct QuantizeFlags {
  CommonFlags common;
  std::string source, destination, type, imatrix;
  bool pure = false, json = false;
  GptqFlags gptq;
};

double bits_per_weight(const QuantizeReport& report) {
  double weights = 0;
  for (const QuantizedTensor& tensor : report.tensors) {
    double n = 1;
    for (const int64_t d : tensor.shape) n *= static_cast<double>(d);
    weights += n;
  }
  return weights > 0 ? 8 * static_cast<double>(report.bytes) / weights : 0;
}

void print_report(const QuantizeFlags& flags, const QuantizeReport& report) {
  if (!flags.json) {
    fmt::print("{}: {}, {:.2f} bits a weight; {:.1f} s, of which encoding took {:.1f} s\n", flags.destination,
               human_bytes(report.bytes), bits_per_weight(report), report.total_seconds,
               report.encode_seconds);
    return;
  }
  auto tensors = nlohmann::ordered_json::array();
  for (const QuantizedTensor& tensor : report.tensors) {
    nlohmann::ordered_json entry = {{"name", tensor.name},
                                    {"shape", tensor.shape},
                                    {"asked", dtype_name(tensor.type.asked)},
                                    {"used", dtype_name(tensor.type.used)}};
    if (!tensor.type.why.empty()) entry["why"] = tensor.type.why;
    entry["error"] = tensor.error;
    entry["bytes"] = tensor.bytes;
    tensors.push_back(std::move(entry));
  }
  const nlohmann::ordered_json json = {{"file", flags.destination},
                                       {"source_bytes", report.source_bytes},
                                       {"bytes", report.bytes},
                                       {"bits_per_weight", bits_per_weight(report)},
                                       {"encode_seconds", report.encode_seconds},
                                       {"total_seconds", report.total_seconds},
                                       {"tensors", std::move(tensors)}};
  print_json(json);
}

Result<Recipe> recipe_of(const QuantizeFlags& flags) {
  if (!flags.pure) return find_recipe(flags.type);
  if (const QuantInfo* info = find_quant(flags.type)) return single_recipe(*info);
  std::vector<std::string_view> names;
  for (const QuantInfo* quant : all_quants()) names.push_back(quant->name);
  return fail(ErrorCode::invalid_argument,
              "quantize: --pure takes one type for all, and \"{}\" is not one of {}", flags.type,
              fmt::join(names, ", "));
}

/// Flags belong to one of the two results.
Result<> check_flags(const QuantizeFlags& flags, bool gptq) {
  const std::string other = !gptq                    ? flags.gptq.given()
                            : flags.pure             ? "--pure"
                            : !flags.imatrix.empty() ? "--imatrix"
                                                     : "";
  if (other.empty()) return {};
  return fail(ErrorCode::invalid_argument, "quantize: {} is {} types, and \"{}\" is none: leave it out",
              other, gptq ? "for GGUF" : "for GPTQ", flags.type);
}

Result<> run_quantize(const QuantizeFlags& flags) {
  const bool gptq = is_gptq_type(flags.type);
  QUERN_TRY_VOID(check_flags(flags, gptq));
  if (gptq)
    return quantize_to_gptq(flags.common, flags.gptq, flags.source, flags.destination, flags.type,
                            flags.json);
  QUERN_TRY(const Config config, flags.common.load(true));
  QuantizeOptions options;
  QUERN_TRY(options.recipe, recipe_of(flags));
  ImportanceMatrix importance;
  if (!flags.imatrix.empty()) {
    QUERN_TRY(importance, read_imatrix(flags.imatrix));
    options.importance = &importance;
  }
  QUERN_TRY(const ModelFiles files, local_model(flags.common, config, flags.source));
  QUERN_TRY(const auto source, open_model_source(files, config.model_path));
  JobProgress shown("quantizing", flags.source);
  options.threads = config.threads;
  options.progress = [&](uint64_t done, uint64_t total) {
    shown.update(done, total);
    return true;
  };
  QUERN_TRY(const QuantizeReport report, quantize(*source, flags.destination, options));
  shown.finish();
  print_report(flags, report);
  return {};
}

}  // namespace

void add_quantize(CommandLine& line) {
  auto flags = std::make_shared<QuantizeFlags>();
  Arguments command = line.add("quantize", "a model in other types: a GGUF file or a GPTQ checkpoint",
                               [flags] { return status_of(run_quantize(*flags)); });
  command.text("SRC", flags->source, "model reference: GGUF or checkpoint, best in full precision",
               Need::required);
  command.text("DST", flags->destination, "the GGUF file to write; for GPTQ, the folder", Need::required);
  command.text(
      "--type", flags->type,
      "Q4_K_M, Q8_0, F16 … (any case); gptq-4bit-128g … or, a scale for each output, gptq-4bit-channel",
      Need::required);
  command.flag("--pure", flags->pure, "one type for all matrices, also embedding and head");
  command.text("--imatrix", flags->imatrix, "an importance matrix: quern imatrix, or llama.cpp's");
  command.flag("--json", flags->json, "print a JSON report with every tensor");
  flags->gptq.add_to(command);
  flags->common.add_to(command);
}

}  // namespace quern
