// quern inspect: what a model is, and what it needs.
#include <limits>
#include <nlohmann/json.hpp>

#include "fetch_model.h"
#include "hub_command.h"
#include "models/checkpoint.h"
#include "models/quantization_report.h"
#include "models/summary.h"
#include "remote_header.h"

namespace quern {
namespace {

struct InspectFlags {
  CommonFlags common;
  std::string model;
  bool tensors = false;
  bool json = false;
};

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t n : shape) text += fmt::format("{}{}", text.empty() ? "" : " x ", n);
  return text;
}

/// What serving it takes on the CPU, with one sequence of `context` tokens.
uint64_t memory_needed(const WeightSource& source, int64_t context) {
  const auto backend = make_cpu_backend({.threads = 1});
  if (!backend) return 0;
  const EngineOptions engine{.max_running = 1, .context = context};
  const auto plan = plan_memory(**backend, source, engine, std::numeric_limits<int64_t>::max(), 1);
  return plan ? plan->total() : 0;
}

nlohmann::ordered_json as_json(const WeightSource& source, const std::string& name,
                               const ModelSummary& summary, bool tensors) {
  nlohmann::ordered_json report = {{"file", name},
                                   {"architecture", summary.architecture},
                                   {"name", summary.name},
                                   {"quantization", summary.quantization},
                                   {"parameters", summary.parameters},
                                   {"bytes", summary.bytes},
                                   {"bits_per_weight", summary.bits_per_weight}};
  if (summary.config) {
    const ModelConfig& c = *summary.config;
    report["context"] = c.context;
    report["layers"] = c.layers;
    report["dim"] = c.dim;
    report["heads"] = c.heads;
    report["kv_heads"] = c.kv_heads;
    report["head_dim"] = c.head_dim;
    report["vocabulary"] = c.vocab;
    report["kv_bytes_per_token"] = summary.kv_bytes_per_token;
    report["memory_needed"] = memory_needed(source, c.context);
  } else {
    report["problem"] = summary.problem;
  }
  auto& types = report["types"] = nlohmann::ordered_json::array();
  for (const auto& type : summary.types)
    types.push_back({{"type", type.name},
                     {"tensors", type.tensors},
                     {"parameters", type.parameters},
                     {"bytes", type.bytes}});
  if (tensors) {
    auto& list = report["tensors"] = nlohmann::ordered_json::array();
    for (const QuantizedTensor& t : quantization_report(source)) {
      list.push_back({{"name", t.name}, {"type", t.stored_as}, {"shape", t.shape}, {"bytes", t.bytes}});
      if (t.error < 0) continue;
      list.back().update({{"asked", asked_name(t)}, {"why", t.type.why}, {"error", t.error}});
    }
  }
  return report;
}

void print_line(std::string_view label, const std::string& value) { fmt::print("{:<14} {}\n", label, value); }

void print_text(const WeightSource& source, const std::string& name, const ModelSummary& summary,
                bool tensors) {
  print_line("file", name);
  if (!summary.name.empty()) print_line("name", summary.name);
  print_line("architecture", summary.architecture);
  print_line("parameters", human_count(summary.parameters));
  print_line("size", fmt::format("{}, {} ({:.2f} bits per weight)", human_bytes(summary.bytes),
                                 summary.quantization, summary.bits_per_weight));
  if (summary.config) {
    const ModelConfig& c = *summary.config;
    print_line("layers", fmt::format("{} of width {}, {} heads of {} over {} key/value heads", c.layers,
                                     c.dim, c.heads, c.head_dim, c.kv_heads));
    if (c.experts > 0)
      print_line("experts", fmt::format("{}, {} used for each token", c.experts, c.experts_used));
    print_line("vocabulary", fmt::format("{} tokens", c.vocab));
    print_line("context", fmt::format("{} tokens", c.context));
    for (const int64_t context : {int64_t{4096}, c.context}) {
      if (context > c.context || (context == 4096 && c.context == 4096)) continue;
      print_line("memory", fmt::format("{} with a context of {}", human_bytes(memory_needed(source, context)),
                                       context));
    }
  } else {
    print_line("cannot run", summary.problem);
  }
  for (const auto& type : summary.types)
    print_line("type",
               fmt::format("{:<5} {:>4} tensors  {}", type.name, type.tensors, human_bytes(type.bytes)));
  if (!tensors) return;
  fmt::print("\n");
  for (const QuantizedTensor& t : quantization_report(source)) {
    std::string note;
    if (t.error > 0) note = fmt::format("  error {:.2f} %", 100 * t.error);
    if (t.error >= 0 && !t.type.why.empty()) note += fmt::format("  {} asked: {}", asked_name(t), t.type.why);
    fmt::print("{:<5} {:<20} {}{}\n", t.stored_as, shape_text(t.shape), t.name, note);
  }
}

/// `name`: where the file is, here or at the hub.
void print_source(const WeightSource& source, const std::string& name, const InspectFlags& flags) {
  const ModelSummary summary = summarize_model(source);
  if (flags.json)
    print_json(as_json(source, name, summary, flags.tensors));
  else
    print_text(source, name, summary, flags.tensors);
}

/// A checkpoint that cannot run, and why.
void print_checkpoint(const std::string& id, const std::string& quantization, uint64_t bytes, size_t files,
                      const std::string& problem, const InspectFlags& flags) {
  const std::string type = quantization.empty() ? "safetensors" : quantization;
  if (flags.json) {
    const nlohmann::ordered_json report = {
        {"file", id}, {"type", type}, {"bytes", bytes}, {"files", files}, {"problem", problem}};
    print_json(report);
    return;
  }
  print_line("model", id);
  print_line("type", type);
  print_line("size", fmt::format("{} in {} files", human_bytes(bytes), files));
  print_line("cannot run", problem);
}

/// Not here: asks the hub, and reads the header alone.
Result<> inspect_remote(const Hub& hub, const std::string& reference, const InspectFlags& flags) {
  QUERN_TRY(const RemoteModel model, hub.describe(reference));
  uint64_t bytes = 0;
  for (const HubFile& file : model.files) bytes += file.size;
  const auto header = RemoteHeader::open(hub, model);
  if (!header && model.checkpoint &&
      (header.error().code == ErrorCode::unsupported || header.error().code == ErrorCode::corrupt)) {
    print_checkpoint(reference, model.quantization, bytes, model.files.size(), header.error().message, flags);
    return {};
  }
  if (!header) return fail(header.error());
  print_source(header->source(), model.checkpoint ? model.repo : model.repo + "/" + model.files.front().name,
               flags);
  return {};
}

Result<> inspect(const InspectFlags& flags) {
  QUERN_TRY(const HubSetup setup, load_hub(flags.common));
  const std::string reference = model_or_default(flags.model, setup.config);
  const Hub hub(setup.hub);
  const auto found = hub.find(reference);
  if (!found && parse_reference(reference) && parse_reference(reference)->kind == ModelReference::Kind::hub)
    return inspect_remote(hub, reference, flags);
  if (found && found->kind == LocalModel::Kind::checkpoint) {
    const auto source = open_checkpoint(found->folder, {});  // its tokenizer does not matter here
    if (source)
      print_source(**source, (*source)->name(), flags);
    else
      print_checkpoint(found->folder.string(), found->quantization, found->bytes, found->files.size(),
                       source.error().message, flags);
    return {};
  }
  const bool file = found && found->kind == LocalModel::Kind::gguf;
  QUERN_TRY(const auto source, file ? open_model_source(files_of(*found), "")
                                    : open_model_source(reference, setup.config.model_path));
  print_source(*source, source->name(), flags);
  return {};
}

}  // namespace

void add_inspect(CommandLine& line) {
  auto flags = std::make_shared<InspectFlags>();
  Arguments command = line.add("inspect", "what a model is and what it needs",
                               [flags] { return status_of(inspect(*flags)); });
  command.text("MODEL", flags->model, "model reference (default: the first allowed model)");
  command.flag("--tensors", flags->tensors, "list every tensor");
  command.flag("--json", flags->json, "print a JSON report");
  flags->common.add_to(command);
}

}  // namespace quern
