#include "config/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <functional>
#include <iterator>

#include "config/nearest.h"

extern char** environ;

namespace quern {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

/// Splits at commas, trims, drops empty parts and repetitions.
std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string part(trim(text.substr(0, comma)));
    if (!part.empty() && std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Stores the value and answers "", or answers what would be allowed.
using Setter = std::function<std::string(Config&, std::string_view value)>;

struct Variable {
  std::string_view name;
  Setter set;  // empty: passed on as it is
};

template <class Field>
Setter integer(Field Config::*field, int64_t least, int64_t most, std::string_view unit = {}) {
  return [=](Config& config, std::string_view value) -> std::string {
    const auto number = parse_number<int64_t>(value);
    if (!number || *number < least || *number > most)
      return fmt::format("a whole number{}{} from {} to {}", unit.empty() ? "" : " of ", unit, least, most);
    config.*field = static_cast<int>(*number);
    return {};
  };
}

Setter real(const std::function<void(Config&, double)>& store, double least, double most,
            bool above = false) {
  return [=](Config& config, std::string_view value) -> std::string {
    const auto number = parse_number<double>(value);
    if (!number || !std::isfinite(*number) || *number < least || *number > most ||
        (above && *number == least))
      return fmt::format("a number {} {} {} {}", above ? "above" : "from", least,
                         above ? "and at most" : "to", most);
    store(config, *number);
    return {};
  };
}

Setter boolean(bool Config::*field) {
  return [=](Config& config, std::string_view value) -> std::string {
    const std::string text = lower(value);
    const bool yes = text == "true" || text == "1" || text == "yes" || text == "on";
    const bool no = text == "false" || text == "0" || text == "no" || text == "off";
    if (!yes && !no) return "true or false (also 1/0, yes/no, on/off)";
    config.*field = yes;
    return {};
  };
}

Setter text(std::string Config::*field) {
  return [=](Config& config, std::string_view value) -> std::string {
    config.*field = value;
    return {};
  };
}

Setter list(std::vector<std::string> Config::*field, const std::string& allowed) {
  return [=](Config& config, std::string_view value) -> std::string {
    auto parts = split_list(value);
    if (parts.empty()) return allowed;
    config.*field = std::move(parts);
    return {};
  };
}

/// One of a few words, any case, stored as spelled in `words`.
Setter choice(std::string Config::*field, const std::vector<std::string>& words) {
  return [=](Config& config, std::string_view value) -> std::string {
    for (const auto& word : words) {
      if (lower(word) != lower(value)) continue;
      config.*field = word;
      return {};
    }
    return fmt::format("one of {}", fmt::join(words, ", "));
  };
}

std::string set_isq_type(Config& config, std::string_view value) {
  static constexpr std::string_view kTypes[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1",
                                                "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"};
  std::string wanted = upper(value);
  if (wanted.size() == 3) wanted.insert(2, "_");  // Q4K
  for (const auto type : kTypes) {
    if (type != wanted) continue;
    config.isq_type = type;
    return {};
  }
  return fmt::format("one of {}", fmt::join(kTypes, ", "));
}

std::string set_context_size(Config& config, std::string_view value) {
  if (lower(value) == "auto") value = "0";
  const auto number = parse_number<int64_t>(value);
  if (!number || *number < 0 || *number > (int64_t{1} << 30))
    return "a number of tokens up to 1073741824, or 0 or auto for the model's own";
  config.context_size = *number;
  return {};
}

std::string set_block_size(Config& config, std::string_view value) {
  const auto number = parse_number<int>(value);
  if (!number || *number < 8 || *number > 256 || (*number & (*number - 1)) != 0)
    return "a number of tokens: 8, 16, 32, 64, 128 or 256";
  config.block_size = *number;
  return {};
}

std::string set_device(Config& config, std::string_view value) {
  const std::string device = lower(value);
  const size_t colon = device.find(':');
  const std::string kind = device.substr(0, colon);
  const bool numbered = kind == "cuda" || kind == "vulkan";
  const bool known = numbered || kind == "auto" || kind == "cpu";
  const bool index_ok = colon == std::string::npos ||
                        (numbered && parse_number<uint16_t>(std::string_view(device).substr(colon + 1)));
  if (!known || !index_ok) return "auto, cpu, cuda, cuda:N, vulkan or vulkan:N";
  config.device = device;
  return {};
}

std::string set_memory_limit(Config& config, std::string_view value) {
  const auto size = parse_size(value);
  if (!size || *size == 0) return "a size such as 12GiB, 512MB or plain bytes";
  config.memory_limit = *size;
  return {};
}

std::string set_port(Config& config, std::string_view value) {
  const auto port = parse_number<uint16_t>(value);
  if (!port) return "a port from 0 to 65535 (0: any free one)";
  config.port = *port;
  return {};
}

std::string set_api_keys(Config& config, std::string_view value) {
  config.api_keys = split_list(value);
  if (config.api_keys.empty()) return "one or more keys, separated by commas";
  for (const auto& key : config.api_keys)
    for (const char c : key)
      if (c <= ' ' || c > '~') return "keys of printable ASCII without blanks, separated by commas";
  return {};
}

std::string set_cors_origins(Config& config, std::string_view value) {
  const char* allowed =
      "* or origins such as https://example.org or http://localhost:3000, separated by commas";
  auto origins = split_list(value);
  for (auto& origin : origins) {
    if (origin == "*" || origin == "null") continue;
    if (origin.ends_with('/')) origin.pop_back();
    const size_t scheme = origin.find("://");
    if (scheme == std::string::npos || scheme == 0 || scheme + 3 == origin.size()) return allowed;
    for (const char c : origin)
      if (c <= ' ' || c > '~') return allowed;
    if (origin.find('/', scheme + 3) != std::string::npos) return allowed;
    origin = lower(origin);  // browsers send origins in lower case
  }
  config.cors_origins = std::move(origins);
  return {};
}

std::string set_log_level(Config& config, std::string_view value) {
  static constexpr std::pair<std::string_view, log::Level> kLevels[] = {
      {"trace", log::Level::trace}, {"debug", log::Level::debug},  {"info", log::Level::info},
      {"warn", log::Level::warn},   {"warning", log::Level::warn}, {"error", log::Level::error},
      {"off", log::Level::off}};
  const std::string wanted = lower(value);
  for (const auto& [name, level] : kLevels) {
    if (name != wanted) continue;
    config.log_level = level;
    return {};
  }
  return "one of trace, debug, info, warn, error, off";
}

/// Every variable there is, in the README's order. Of two names for one setting the later wins.
const std::vector<Variable>& variables() {
  constexpr int kMany = 1000000;
  static const std::vector<Variable> table = {
      {"LLM_ALLOWED_MODELS", list(&Config::allowed_models, "model references, separated by commas")},
      {"LLM_MODEL_PATH", text(&Config::model_path)},
      {"LLM_ENABLE_ISQ", boolean(&Config::enable_isq)},
      {"LLM_ISQ_TYPE", set_isq_type},
      {"LLM_ISQ_CACHE", boolean(&Config::isq_cache)},
      {"LLM_ISQ_KEEP_SOURCE", boolean(&Config::isq_keep_source)},
      {"LLM_MAX_CONCURRENT_REQUESTS", integer(&Config::max_concurrent_requests, 1, 4096)},
      {"LLM_MAX_QUEUED_REQUESTS", integer(&Config::max_queued_requests, 0, kMany)},
      {"LLM_QUEUE_TIMEOUT_MS", integer(&Config::queue_timeout_ms, 1, 86400000, "milliseconds")},
      {"LLM_DEFAULT_TEMPERATURE",
       real([](Config& c, double v) { c.default_temperature = static_cast<float>(v); }, 0, 2)},
      {"LLM_DEFAULT_TOP_P",
       real([](Config& c, double v) { c.default_top_p = static_cast<float>(v); }, 0, 1, true)},
      {"LLM_DEFAULT_MAX_TOKENS", integer(&Config::default_max_tokens, 1, 1 << 30, "tokens")},
      {"LLM_MAX_TOKENS_LIMIT", integer(&Config::max_tokens_limit, 1, 1 << 30, "tokens")},
      {"LLM_CONTEXT_SIZE", set_context_size},
      {"LLM_PAGED_CACHE_TYPE", choice(&Config::kv_cache_type, {"auto", "f16", "q8_0", "f8e4m3"})},
      {"LLM_KV_CACHE_TYPE", choice(&Config::kv_cache_type, {"auto", "f16", "q8_0", "f8e4m3"})},
      {"LLM_PAGED_ATTENTION_BLOCK_SIZE", set_block_size},
      {"LLM_ENABLE_PREFIX_CACHING", boolean(&Config::prefix_caching)},
      {"LLM_DEVICE", set_device},
      {"LLM_BATCH_INVARIANT", boolean(&Config::batch_invariant)},
      {"LLM_THREADS", integer(&Config::threads, 1, 1024)},
      {"LLM_MEMORY_LIMIT", set_memory_limit},
      {"LLM_INFERENCE_HOSTNAME", text(&Config::hostname)},
      {"LLM_INFERENCE_PORT", set_port},
      {"LLM_API_KEYS", set_api_keys},
      {"CORS_ALLOWED_ORIGINS", set_cors_origins},
      {"SERVER_SSL_ENABLED", boolean(&Config::tls)},
      {"TLS_SERVER_CERT_PATH", text(&Config::tls_cert)},
      {"TLS_SERVER_KEY_PATH", text(&Config::tls_key)},
      {"HF_HOME", {}},
      {"HF_HUB_CACHE", {}},
      {"HF_TOKEN", {}},
      {"HF_ENDPOINT", {}},
      {"HF_HUB_OFFLINE", {}},
      {"CUDA_VISIBLE_DEVICES", {}},
      {"GPU_PRESSURE_THRESHOLD", real([](Config& c, double v) { c.gpu_pressure_threshold = v; }, 0, 100)},
      {"LOG_FORMAT", choice(&Config::log_format, {"pretty", "json"})},
      {"LOG_LEVEL", set_log_level},
      {"SERVICE_NAME", text(&Config::service_name)},
      {"OTEL_EXPORTER_OTLP_ENDPOINT", {}},
  };
  return table;
}

/// Two names of one setting.
constexpr std::string_view kCacheTypeNames[] = {"LLM_KV_CACHE_TYPE", "LLM_PAGED_CACHE_TYPE"};

/// What `source` says wins over `values`, by whatever name.
void merge(const std::map<std::string, std::string>& source, std::map<std::string, std::string>& values) {
  const auto named = [&](std::string_view name) { return source.contains(std::string(name)); };
  if (std::ranges::any_of(kCacheTypeNames, named))
    for (const std::string_view name : kCacheTypeNames) values.erase(std::string(name));
  for (const auto& [name, value] : source) values[name] = value;
}

/// A value as it may stand in a message: one line, not too long.
std::string shown(std::string_view value) {
  std::string out;
  for (const char c : value.substr(0, 60)) out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  if (value.size() > 60) out += "…";
  return out;
}

Result<std::map<std::string, std::string>> read_env_file(const std::filesystem::path& path, bool required) {
  std::error_code ignored;
  if (path.empty() || (!required && !std::filesystem::exists(path, ignored)))
    return std::map<std::string, std::string>{};
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, ignored))
    return fail(ErrorCode::io, "{}: cannot read the file of settings", path.string());
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  auto values = parse_dotenv(text);
  if (!values) return fail(values.error().code, "{}: {}", path.string(), values.error().message);
  return values;
}

Result<> check_together(const Config& config) {
  if (!config.tls) return {};
  for (const auto& [name, path] : {std::pair("TLS_SERVER_CERT_PATH", config.tls_cert),
                                   std::pair("TLS_SERVER_KEY_PATH", config.tls_key)}) {
    if (path.empty())
      return fail(ErrorCode::invalid_argument, "{}: not set: SERVER_SSL_ENABLED=true needs a PEM file", name);
  }
  return {};
}

/// Lines about unknown names and settings that do not fit each other.
std::vector<std::string> warnings_for(const std::map<std::string, std::string>& values,
                                      const Config& config) {
  std::vector<std::string> warnings;
  const auto names = known_variables();
  for (const auto& [name, value] : values) {
    if (!name.starts_with("LLM_") || std::find(names.begin(), names.end(), name) != names.end()) continue;
    warnings.push_back(
        fmt::format("{}: unknown variable, ignored: did you mean {}?", shown(name), nearest(name, names)));
  }
  if (config.default_max_tokens && *config.default_max_tokens > config.max_tokens_limit)
    warnings.push_back(fmt::format("LLM_DEFAULT_MAX_TOKENS: {} is above LLM_MAX_TOKENS_LIMIT, {} is used",
                                   *config.default_max_tokens, config.max_tokens_limit));
  return warnings;
}

}  // namespace

std::optional<uint64_t> parse_size(std::string_view text) {
  text = trim(text);
  size_t digits = 0;
  while (digits < text.size() &&
         (std::isdigit(static_cast<unsigned char>(text[digits])) || text[digits] == '.'))
    ++digits;
  const auto number = parse_number<double>(text.substr(0, digits));
  if (!number || digits == 0) return std::nullopt;
  std::string unit = lower(trim(text.substr(digits)));
  double scale = 1;
  if (!unit.empty() && unit != "b") {
    const size_t power = std::string_view("kmgtp").find(unit[0]);
    if (power == std::string_view::npos) return std::nullopt;
    const std::string_view rest = std::string_view(unit).substr(1);
    if (!rest.empty() && rest != "b" && rest != "i" && rest != "ib") return std::nullopt;
    scale = std::pow(rest == "b" ? 1000.0 : 1024.0, static_cast<double>(power + 1));
  }
  const double bytes = *number * scale;
  if (!(bytes < 9.2e18)) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

std::vector<std::string_view> known_variables() {
  std::vector<std::string_view> names;
  for (const Variable& variable : variables()) names.push_back(variable.name);
  return names;
}

Result<LoadedConfig> load_config(const std::filesystem::path& env_file, bool required,
                                 const std::map<std::string, std::string>& environment,
                                 const std::map<std::string, std::string>& overrides) {
  QUERN_TRY(auto values, read_env_file(env_file, required));
  merge(environment, values);
  merge(overrides, values);

  LoadedConfig loaded;
  for (const Variable& variable : variables()) {
    const auto found = values.find(std::string(variable.name));
    if (found == values.end()) continue;
    const std::string_view value = trim(found->second);
    if (value.empty()) continue;
    if (!variable.set) {
      loaded.passed_on[found->first] = value;
      continue;
    }
    const std::string allowed = variable.set(loaded.config, value);
    if (!allowed.empty())
      return fail(ErrorCode::invalid_argument, "{}: \"{}\" is not allowed: give {}", variable.name,
                  variable.name == "LLM_API_KEYS" ? "…" : shown(value), allowed);
  }
  QUERN_TRY_VOID(check_together(loaded.config));
  loaded.warnings = warnings_for(values, loaded.config);
  return loaded;
}

std::map<std::string, std::string> process_environment() {
  std::map<std::string, std::string> result;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view pair = *entry;
    const size_t equals = pair.find('=');
    if (equals != std::string_view::npos) result.emplace(pair.substr(0, equals), pair.substr(equals + 1));
  }
  return result;
}

}  // namespace quern
