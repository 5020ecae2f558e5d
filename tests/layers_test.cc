// Holds the table of docs/architecture.md: includes between the folders of src/ go one way.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "core/source_dir.h"

namespace {

namespace fs = std::filesystem;
const fs::path kSource = fs::path(QUERN_SOURCE_DIR) / "src";

/// Folder → folders it may include directly. Tests and benchmarks may look further down, never up.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"core", {}},
    {"quant", {"core"}},
    {"backend", {"core", "quant"}},
    {"formats", {"core", "quant"}},
    {"kv", {"core", "backend"}},
    {"nn", {"core", "quant", "backend", "kv"}},
    {"models", {"core", "quant", "backend", "formats", "kv", "nn"}},
    {"sampling", {"core"}},
    {"text", {"core"}},
    {"config", {"core"}},
    {"hub", {"core", "config"}},
    {"eval", {"core", "backend", "formats", "kv", "models", "text"}},
    {"quantize", {"core", "quant", "backend", "formats", "kv", "nn", "models", "eval"}},
    {"scheduler", {"core", "kv"}},
    {"engine", {"core", "quant", "backend", "formats", "kv", "models", "sampling", "text", "scheduler"}},
    {"http",
     {"core", "quant", "backend", "formats", "kv", "models", "sampling", "text", "scheduler", "engine",
      "config"}},
};

template <class Visit>
void each_include(const Visit& visit) {
  static const std::regex kInclude("^\\s*#\\s*include\\s+\"([^\"]+)\"");
  for (const auto& entry : fs::recursive_directory_iterator(kSource)) {
    const std::string extension = entry.path().extension();
    if (extension != ".h" && extension != ".cc" && extension != ".inc") continue;
    std::ifstream file(entry.path());
    const fs::path from = fs::relative(entry.path(), kSource);
    std::string line;
    std::smatch match;
    while (std::getline(file, line)) {
      if (std::regex_search(line, match, kInclude)) visit(from, fs::path(match[1].str()));
    }
  }
}

bool is_test(const fs::path& path) {
  const std::string stem = path.stem();
  return stem.ends_with("_test") || stem.ends_with("_bench") || stem.ends_with("_testing");
}

TEST(Layers, EveryFolderIsKnown) {
  for (const auto& entry : fs::directory_iterator(kSource)) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(kMayInclude.contains(name))
        << "src/" << name << " is not in the table of docs/architecture.md and of this test";
  }
}

TEST(Layers, IncludesGoOneWay) {
  int seen = 0;
  each_include([&](const fs::path& from, const fs::path& to) {
    const std::string source = from.begin()->string(), target = to.begin()->string();
    if (!kMayInclude.contains(source) || !kMayInclude.contains(target) || source == target || is_test(from))
      return;
    ++seen;
    EXPECT_TRUE(kMayInclude.at(source).contains(target))
        << "src/" << from.string() << " includes " << to.string();
  });
  EXPECT_GT(seen, 50);
}

TEST(Layers, SchedulerKnowsNoTensors) {
  each_include([](const fs::path& from, const fs::path& to) {
    if (*from.begin() != "scheduler" || is_test(from)) return;
    EXPECT_NE(to, fs::path("kv/kv_cache.h")) << from;
    EXPECT_NE(to.begin()->string(), "backend") << from;
  });
}

TEST(Layers, BackendsDoNotKnowEachOther) {
  each_include([](const fs::path& from, const fs::path& to) {
    auto from_part = from.begin(), to_part = to.begin();
    if (*from_part != "backend" || *to_part != "backend" || is_test(from)) return;
    if (std::distance(from.begin(), from.end()) < 3 || std::distance(to.begin(), to.end()) < 3) return;
    EXPECT_EQ((++from_part)->string(), (++to_part)->string()) << from << " includes " << to;
  });
}

}  // namespace
