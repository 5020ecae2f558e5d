// What the commands share. Each command is one file here: wiring only.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "command_line.h"
#include "config/config.h"
#include "core/result.h"
#include "engine/served_model.h"

namespace quern {

/// Exit statuses.
inline constexpr int kDone = 0, kFailed = 1, kUsage = 2;

/// Prints `error: …` on stderr and returns kFailed.
int report(const Error& error);
/// kDone, or what `report` returns.
int status_of(const Result<>& done);

/// Flags that every command takes; `overrides` collects those that stand for a variable.
struct CommonFlags {
  std::filesystem::path env_file = ".env";
  bool env_required = false;
  std::map<std::string, std::string> overrides;

  /// Adds a flag whose value wins over the variable.
  void setting(Arguments& command, const std::string& flag, const std::string& variable,
               const std::string& help);
  void add_to(Arguments& command);
  /// Reads the configuration, prints warnings and sets the log up (quietly, unless the user chose a level).
  Result<Config> load(bool quiet) const;
};

void add_serve(CommandLine& line);
void add_run(CommandLine& line);
void add_inspect(CommandLine& line);
void add_tokenize(CommandLine& line);
void add_bench(CommandLine& line);
void add_perplexity(CommandLine& line);
void add_quantize(CommandLine& line);
void add_imatrix(CommandLine& line);

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
