// quern pull: models into the cache, several at once.
#include <nlohmann/json.hpp>
#include <thread>

#include "hub_command.h"
#include "progress_bars.h"

namespace quern {
namespace {

struct PullFlags {
  CommonFlags common;
  std::vector<std::string> models;
  bool json = false;
};

nlohmann::ordered_json as_json(const LocalModel& model) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const auto& file : model.files) files.push_back(file.string());
  nlohmann::ordered_json report = {{"id", model.id}, {"files", files}, {"bytes", model.bytes}};
  if (!model.quantization.empty()) report["quantization"] = model.quantization;
  if (!model.commit.empty()) {
    report["repo"] = model.repo;
    report["revision"] = model.revision;
    report["commit"] = model.commit;
  }
  if (!model.tokenizer_folder.empty()) report["tokenizer"] = model.tokenizer_folder.string();
  return report;
}

std::string summary(const LocalModel& model) {
  if (model.kind == LocalModel::Kind::guide) return "part of the program";
  std::string text = fmt::format("{} in {}", human_bytes(model.bytes), model.files.front().string());
  if (model.files.size() > 1) text += fmt::format(" and {} more", model.files.size() - 1);
  return text;
}

int pull(const PullFlags& flags) {
  const auto setup = load_hub(flags.common);
  if (!setup) return report(setup.error());
  std::vector<std::string> models = flags.models;
  if (models.empty()) models = setup->config.allowed_models;
  const Hub hub(setup->hub);
  ProgressBars bars(models, flags.json);
  std::vector<Result<LocalModel>> results(models.size());
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < models.size(); ++i)
      threads.emplace_back([&, i] {
        results[i] = hub.fetch(models[i], [&bars, i](const HubProgress& p) { bars.update(i, p); });
        bars.finish(i, results[i] ? summary(*results[i]) : "failed");
      });
  }
  auto list = nlohmann::ordered_json::array();
  int status = kDone;
  for (size_t i = 0; i < models.size(); ++i) {
    if (results[i]) {
      list.push_back(as_json(*results[i]));
    } else {
      status = report(results[i].error());
      list.push_back({{"id", models[i]}, {"error", results[i].error().message}});
    }
  }
  if (flags.json) print_json(list);
  return status;
}

}  // namespace

Result<HubOptions> hub_options(const CommonFlags& flags, const Config& config) {
  // HF_… may also stand in .env; all else of the hub's is the environment's.
  QUERN_TRY(const LoadedConfig loaded,
            load_config(flags.env_file, flags.env_required, process_environment(), flags.overrides));
  auto variables = process_environment();
  for (const auto& [name, value] : loaded.passed_on) variables[name] = value;
  variables["LLM_MODEL_PATH"] = config.model_path;
  return HubOptions::from(variables);
}

Result<HubSetup> load_hub(const CommonFlags& flags) {
  QUERN_TRY(Config config, flags.load(true));
  QUERN_TRY(HubOptions options, hub_options(flags, config));
  return HubSetup{std::move(config), std::move(options)};
}

void add_pull(CommandLine& line) {
  auto flags = std::make_shared<PullFlags>();
  Arguments command = line.add("pull", "download models into the cache that all Hugging Face tools share",
                               [flags] { return pull(*flags); });
  command.texts("MODEL", flags->models, "model references (default: the allowed models)");
  command.flag("--json", flags->json, "print a JSON report");
  flags->common.add_to(command);
}

}  // namespace quern
