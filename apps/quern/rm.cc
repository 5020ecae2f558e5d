// quern rm: models out of the cache.
#include <nlohmann/json.hpp>

#include "hub/scan.h"
#include "hub_command.h"
#include "isq.h"
#include "quantize/isq.h"

namespace quern {
namespace {

struct RmFlags {
  CommonFlags common;
  std::vector<std::string> models;
  bool json = false;
};

int rm(const RmFlags& flags) {
  const auto setup = load_hub(flags.common);
  if (!setup) return report(setup.error());
  const hub::Cache cache(setup->hub.cache);
  auto list = nlohmann::ordered_json::array();
  int status = kDone;
  for (const std::string& model : flags.models) {
    const uint64_t quantized = remove_from_isq_cache(isq_cache(), model);
    auto removed = remove_cached(cache, model);
    if (!removed && quantized > 0) removed = Removed();  // a local checkpoint's, or the hub's is gone already
    if (removed) removed->bytes += quantized;
    if (!removed) {
      status = report(removed.error());
      list.push_back({{"id", model}, {"error", removed.error().message}});
      continue;
    }
    list.push_back({{"id", model}, {"bytes_freed", removed->bytes}});
    if (!flags.json) fmt::print("{}: removed, {} freed\n", model, human_bytes(removed->bytes));
  }
  if (flags.json) print_json(list);
  return status;
}

}  // namespace

void add_rm(CommandLine& line) {
  auto flags = std::make_shared<RmFlags>();
  Arguments command = line.add("rm", "remove models from the cache", [flags] { return rm(*flags); });
  command.texts("MODEL", flags->models,
                "owner/repo: all of it; with a selector: that model or revision; with what ISQ made of it",
                Need::required);
  command.flag("--json", flags->json, "print a JSON report");
  flags->common.add_to(command);
}

}  // namespace quern
