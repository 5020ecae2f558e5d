// quern inspect: what a model is, and what it needs.
#include <iostream>
#include <nlohmann/json.hpp>

#include "command.h"
#include "models/summary.h"
#include "quant/quant.h"

namespace quern {
namespace {

struct InspectFlags {
  CommonFlags common;
  std::string model;
  bool tensors = false;
  bool json = false;
};

std::string shape_text(const RawTensor& tensor) {
  std::string text;
  for (const int64_t n : tensor.shape) text += fmt::format("{}{}", text.empty() ? "" : " x ", n);
  return text;
}

nlohmann::ordered_json as_json(const WeightSource& source, const ModelSummary& summary, bool tensors) {
  nlohmann::ordered_json report = {{"file", source.name()},
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
    report["memory_needed"] = summary.memory_needed(c.context);
  } else {
    report["problem"] = summary.problem;
  }
  auto& types = report["types"] = nlohmann::ordered_json::array();
  for (const auto& type : summary.types)
    types.push_back({{"type", dtype_name(type.dtype)},
                     {"tensors", type.tensors},
                     {"parameters", type.parameters},
                     {"bytes", type.bytes}});
  if (tensors) {
    auto& list = report["tensors"] = nlohmann::ordered_json::array();
    for (const RawTensor& t : source.tensors())
      list.push_back(
          {{"name", t.name}, {"type", dtype_name(t.dtype)}, {"shape", t.shape}, {"bytes", t.data.size()}});
  }
  return report;
}

void print_line(std::string_view label, const std::string& value) { fmt::print("{:<14} {}\n", label, value); }

void print_text(const WeightSource& source, const ModelSummary& summary, bool tensors) {
  print_line("file", source.name());
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
      print_line("memory", fmt::format("{} with a context of {}", human_bytes(summary.memory_needed(context)),
                                       context));
    }
  } else {
    print_line("cannot run", summary.problem);
  }
  for (const auto& type : summary.types)
    print_line("type", fmt::format("{:<5} {:>4} tensors  {}", dtype_name(type.dtype), type.tensors,
                                   human_bytes(type.bytes)));
  if (!tensors) return;
  fmt::print("\n");
  for (const RawTensor& t : source.tensors())
    fmt::print("{:<5} {:<20} {}\n", dtype_name(t.dtype), shape_text(t), t.name);
}

Result<> inspect(const InspectFlags& flags) {
  QUERN_TRY(const Config config, flags.common.load(true));
  QUERN_TRY(const auto source, open_model_source(model_or_default(flags.model, config), config.model_path));
  const ModelSummary summary = summarize_model(*source);
  if (flags.json)
    std::cout << as_json(*source, summary, flags.tensors)
                     .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
              << std::endl;
  else
    print_text(*source, summary, flags.tensors);
  return {};
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app.add_subcommand("inspect", "what a model is and what it needs");
  command->add_option("MODEL", flags->model, "model reference (default: the first allowed model)");
  command->add_flag("--tensors", flags->tensors, "list every tensor");
  command->add_flag("--json", flags->json, "print a JSON report");
  flags->common.add_to(*command);
  command->callback([flags, &action] {
    action = [flags] {
      const auto done = inspect(*flags);
      return done ? kDone : report(done.error());
    };
  });
}

}  // namespace quern
