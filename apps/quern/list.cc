// quern list: the models on this machine.
#include <fmt/ranges.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "engine/embedded_guide.h"
#include "hub/scan.h"
#include "hub_command.h"
#include "isq.h"
#include "quantize/isq.h"

namespace quern {
namespace {

struct ListFlags {
  CommonFlags common;
  bool json = false;
};

struct Row {
  std::string source;  // "hub", "local", "bundled", "isq": quantized while loading
  ListedModel model;
};

std::string when(int64_t seconds) {
  if (seconds == 0) return "-";
  const auto time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  localtime_r(&time, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts)};
}

std::string revision(const ListedModel& model) {
  if (model.commit.empty()) return "-";
  std::string text = model.commit.substr(0, 8);
  if (!model.refs.empty()) text += fmt::format(" ({})", fmt::join(model.refs, ", "));
  return text;
}

std::string type(const ListedModel& model) {
  return model.quantization.empty() ? model.type : model.type + " " + model.quantization;
}

std::vector<Row> all_models(const HubSetup& setup) {
  std::vector<Row> rows;
  if (!embedded_guide().empty())
    rows.push_back(
        {"bundled",
         {.id = "quern/guide", .type = "GGUF", .quantization = "Q8_0", .bytes = embedded_guide().size()}});
  if (!setup.config.model_path.empty())
    for (ListedModel& model : list_folder(setup.config.model_path))
      rows.push_back({"local", std::move(model)});
  for (ListedModel& model : list_cache(hub::Cache(setup.hub.cache)))
    rows.push_back({"hub", std::move(model)});
  for (const IsqEntry& entry : list_isq_cache(isq_cache()))
    rows.push_back({"isq",
                    {.id = entry.id,
                     .type = "GGUF",
                     .quantization = entry.type,
                     .bytes = entry.bytes,
                     .last_used = entry.last_used}});
  return rows;
}

void print_table(const std::vector<Row>& rows) {
  size_t id_width = 5, type_width = 4, revision_width = 8;
  for (const Row& row : rows) {
    id_width = std::max(id_width, row.model.id.size());
    type_width = std::max(type_width, type(row.model).size());
    revision_width = std::max(revision_width, revision(row.model).size());
  }
  const auto line = [&](const auto&... cells) {
    fmt::print("{:<{}}  {:<{}}  {:>10}  {:<{}}  {:<8} {}\n", cells...);
  };
  line("MODEL", id_width, "TYPE", type_width, "SIZE", "REVISION", revision_width, "SOURCE", "LAST USED");
  for (const Row& row : rows)
    line(row.model.id, id_width, type(row.model), type_width, human_bytes(row.model.bytes),
         revision(row.model), revision_width, row.source, when(row.model.last_used));
}

void print_rows(const std::vector<Row>& rows) {
  auto list = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    nlohmann::ordered_json entry = {
        {"id", row.model.id}, {"source", row.source}, {"type", row.model.type}, {"bytes", row.model.bytes}};
    if (!row.model.quantization.empty()) entry["quantization"] = row.model.quantization;
    if (!row.model.commit.empty()) {
      entry["commit"] = row.model.commit;
      entry["refs"] = row.model.refs;
    }
    if (row.model.last_used != 0) entry["last_used"] = row.model.last_used;
    list.push_back(std::move(entry));
  }
  print_json(list);
}

Result<> list(const ListFlags& flags) {
  QUERN_TRY(const HubSetup setup, load_hub(flags.common));
  const auto rows = all_models(setup);
  if (flags.json)
    print_rows(rows);
  else
    print_table(rows);
  return {};
}

}  // namespace

void add_list(CommandLine& line) {
  auto flags = std::make_shared<ListFlags>();
  Arguments command =
      line.add("list", "the models on this machine", [flags] { return status_of(list(*flags)); });
  command.flag("--json", flags->json, "print a JSON report");
  flags->common.add_to(command);
}

}  // namespace quern
