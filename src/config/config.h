// .env, environment and flags → typed options, validated once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/log.h"
#include "core/result.h"

namespace quern {

/// Parses the text of a .env file in every form that dotenv users write: `export `, single and double quotes,
/// \"escaped\" quotes around a value, comments, CRLF. Later lines win. Errors name the line.
Result<std::map<std::string, std::string>> parse_dotenv(std::string_view text);

/// Every setting of the server (see the README's table). An optional is empty where the user set nothing and
/// another source (the request, the model's generation_config) may decide.
struct Config {
  std::vector<std::string> allowed_models{"quern/guide"};
  std::string model_path;
  bool enable_isq = false;
  std::string isq_type = "Q4_K";
  bool isq_cache = true;
  bool isq_keep_source = true;
  int max_concurrent_requests = 10;
  int max_queued_requests = 100;
  int queue_timeout_ms = 30000;
  std::optional<float> default_temperature, default_top_p;
  std::optional<int> default_max_tokens;
  int max_tokens_limit = 4096;
  int64_t context_size = 0;            // 0: the model's, within memory
  std::string kv_cache_type = "auto";  // auto, f16, q8_0, f8e4m3
  int block_size = 32;
  bool prefix_caching = true;
  std::string device = "auto";
  bool batch_invariant = false;
  int threads = 0;            // 0: physical cores
  uint64_t memory_limit = 0;  // 0: 90 % of what is free
  std::string hostname = "127.0.0.1";
  uint16_t port = 8091;
  std::vector<std::string> api_keys;
  std::vector<std::string> cors_origins;
  bool tls = false;
  std::string tls_cert, tls_key;
  double gpu_pressure_threshold = 95.0;
  std::string log_format;  // "": pretty on a terminal, else json
  log::Level log_level = log::Level::info;
  std::string service_name = "quern";
};

struct LoadedConfig {
  Config config;
  /// What another part of the program reads by itself (HF_HOME, HF_TOKEN, CUDA_VISIBLE_DEVICES …), merged
  /// from the same sources in the same order; only what was set.
  std::map<std::string, std::string> passed_on;
  std::vector<std::string> warnings;  // unknown LLM_… variables, with the nearest known one
};

/// `overrides` (flags, by the variable's name) win over `environment`, which wins over `env_file` (may not
/// exist unless `required`). An empty value means the default. A value that does not parse: one line with the
/// variable, the value and what is allowed.
Result<LoadedConfig> load_config(const std::filesystem::path& env_file, bool required,
                                 const std::map<std::string, std::string>& environment,
                                 const std::map<std::string, std::string>& overrides);

/// "12GiB", "512MB", "1.5g", plain bytes: KB is 1000, KiB and a bare K are 1024. Empty when it is no size.
std::optional<uint64_t> parse_size(std::string_view text);

/// The names of all variables that load_config knows, in the README's order.
std::vector<std::string_view> known_variables();

/// The process's environment.
std::map<std::string, std::string> process_environment();

}  // namespace quern
