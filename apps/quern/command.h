// What the commands share. Each command is one file here: wiring only.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/result.h"
#include "engine/served_model.h"

namespace quern {

/// Exit statuses.
inline constexpr int kDone = 0, kFailed = 1, kUsage = 2;

/// Prints `error: …` on stderr and returns kFailed.
int report(const Error& error);

/// Flags that every command takes; `overrides` collects those that stand for a variable.
struct CommonFlags {
  std::filesystem::path env_file = ".env";
  bool env_required = false;
  std::map<std::string, std::string> overrides;

  /// Adds a flag whose value wins over the variable.
  void setting(CLI::App& command, const std::string& flag, const std::string& variable,
               const std::string& help);
  void add_to(CLI::App& command);
  /// Reads the configuration, prints warnings and sets the log up (quietly, unless the user chose a level).
  Result<Config> load(bool quiet) const;
};

/// A command registers itself and stores what to do when it is chosen.
using Action = std::function<int()>;
void add_serve(CLI::App& app, Action& action);
void add_run(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);
void add_perplexity(CLI::App& app, Action& action);
void add_quantize(CLI::App& app, Action& action);
void add_imatrix(CLI::App& app, Action& action);

/// The device that the configuration asks for.
Result<std::unique_ptr<Backend>> backend_of(const Config& config);
/// The KV cache's type that the configuration asks for; an error where the device has no such.
Result<KvType> kv_type_of(const Config& config, const Backend& backend);
/// One JSON document on stdout. What is not UTF-8 (a file's name can be anything) is replaced.
void print_json(const nlohmann::ordered_json& document);
/// The model named on the command line, or the first allowed one.
std::string model_or_default(const std::string& reference, const Config& config);
/// "4.07 GiB"
std::string human_bytes(uint64_t bytes);
/// "1.10 B"
std::string human_count(int64_t count);

}  // namespace quern
