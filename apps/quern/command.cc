#include "command.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "backend/choose.h"

namespace quern {

int report(const Error& error) {
  fmt::print(stderr, "error: {}\n", error.message);
  return kFailed;
}

int status_of(const Result<>& done) { return done ? kDone : report(done.error()); }

void CommonFlags::setting(Arguments& command, const std::string& flag, const std::string& variable,
                          const std::string& help) {
  command.text(
      flag, [this, variable](const std::string& value) { overrides[variable] = value; },
      fmt::format("{} ({})", help, variable));
}

void CommonFlags::add_to(Arguments& command) {
  command.text(
      "--env-file",
      [this](const std::string& path) {
        env_file = path;
        env_required = true;
      },
      "settings file instead of .env");
  setting(command, "--device", "LLM_DEVICE", "auto, cpu, cuda, cuda:N");
  setting(command, "-t,--threads", "LLM_THREADS", "CPU threads");
  setting(command, "--model-path", "LLM_MODEL_PATH", "folder of your own models");
  setting(command, "--log-level", "LOG_LEVEL", "trace, debug, info, warn, error, off");
}

Result<Config> CommonFlags::load(bool quiet) const {
  QUERN_TRY(LoadedConfig loaded, load_config(env_file, env_required, process_environment(), overrides));
  const Config& config = loaded.config;
  const bool chosen = overrides.contains("LOG_LEVEL") || std::getenv("LOG_LEVEL") != nullptr;
  const bool json =
      config.log_format == "json" || (config.log_format.empty() && isatty(STDERR_FILENO) == 0 && !quiet);
  log::init(json ? log::Format::json : log::Format::pretty,
            quiet && !chosen ? log::Level::warn : config.log_level);
  for (const std::string& warning : loaded.warnings) log::warn(warning);
  return loaded.config;
}

Result<std::unique_ptr<Backend>> backend_of(const Config& config) {
  const BackendOptions options{.cpu = {.threads = config.threads},
                               .gpu = {.batch_invariant = config.batch_invariant}};
  std::string note;
  auto backend = choose_backend(config.device, options, note);
  if (!note.empty()) log::info("the GPU backend is not used", {{"why", note}});
  return backend;
}

Result<KvType> kv_type_of(const Config& config, const Backend& backend) {
  KvType type = KvType::f16;
  if (config.kv_cache_type == "q8_0") type = KvType::q8_0;
  if (config.kv_cache_type == "f8e4m3") type = KvType::f8e4m3;
  if (auto supported = backend.supports(type); !supported)
    return fail(ErrorCode::unsupported, "LLM_KV_CACHE_TYPE: {}", supported.error().message);
  return type;
}

void print_json(const nlohmann::ordered_json& document) {
  std::cout << document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << std::endl;
}

std::string model_or_default(const std::string& reference, const Config& config) {
  if (!reference.empty()) return reference;
  return config.allowed_models.empty() ? "quern/guide" : config.allowed_models.front();
}

std::string human_bytes(uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kUnits[unit]);
}

std::string human_count(int64_t count) {
  const double value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.2f} B", value / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.2f} M", value / 1e6);
  return fmt::format("{}", count);
}

}  // namespace quern
