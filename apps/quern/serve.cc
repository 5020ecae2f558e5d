#include "serve.h"

#include <fmt/ranges.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "command.h"
#include "core/log.h"
#include "fetch_model.h"
#include "http/server.h"
#include "load_options.h"

namespace quern {
namespace {

using namespace std::chrono_literals;

/// How long running requests have to finish once a signal has come.
constexpr auto kGrace = 30s;

/// A thousand streams need a thousand descriptors, and shells give 1024.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, 65536);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  setrlimit(RLIMIT_NOFILE, &limit);
}

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

/// Turns the first signal into a graceful stop and the second into an end.
void watch_signals(const std::stop_token& done, Server& server) {
  const sigset_t set = ending_signals();
  for (int signals = 0; !done.stop_requested();) {
    const timespec moment{.tv_sec = 0, .tv_nsec = 200'000'000};
    if (sigtimedwait(&set, nullptr, &moment) < 0) continue;
    ++signals;
    log::info(signals == 1 ? "finishing running requests; a second signal ends them" : "ending at once");
    server.stop(signals == 1 ? kGrace : 0s);
  }
}

std::string url_of(const Config& config, uint16_t port) {
  const bool v6 = config.hostname.find(':') != std::string::npos;
  return fmt::format("{}://{}{}{}:{}", config.tls ? "https" : "http", v6 ? "[" : "", config.hostname,
                     v6 ? "]" : "", port);
}

Result<> serve(const CommonFlags& flags) {
  // Before any thread exists, so that all of them leave the signals to the watcher.
  const sigset_t set = ending_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  QUERN_TRY(const Config config, flags.load(false));
  QUERN_TRY(const auto backend, backend_of(config));
  HostOptions options;
  options.models = config.allowed_models;
  QUERN_TRY(options.load, load_options(config, *backend));
  QUERN_TRY(HubOptions hub, hub_options(flags, config));
  options.fetch = fetch_through(Hub(std::move(hub)), config);
  raise_descriptor_limit();
  if (config.enable_isq && !config.isq_cache && !config.isq_keep_source)
    log::warn(
        "LLM_ISQ_KEEP_SOURCE=false is not followed: with LLM_ISQ_CACHE=false the shards are all there is");

  const auto metrics = Metrics::create();
  const auto host = ModelHost::start(*backend, options, metrics.get());
  QUERN_TRY(const auto server, Server::create(config, *host, *metrics));
  log::info("listening", {{"url", url_of(config, server->port())},
                          {"device", backend->description()},
                          {"models", fmt::format("{}", fmt::join(config.allowed_models, ", "))},
                          {"keys", config.api_keys.empty() ? "none" : "required"}});
  std::jthread watcher([&server](const std::stop_token& done) { watch_signals(done, *server); });
  server->run();
  host->stop(0ms);
  log::info("stopped");
  return {};
}

}  // namespace

int serve_command(const std::map<std::string, std::string>& overrides, const std::filesystem::path& env_file,
                  bool env_required) {
  CommonFlags flags;
  flags.overrides = overrides;
  flags.env_file = env_file;
  flags.env_required = env_required;
  const auto done = serve(flags);
  return done ? kDone : report(done.error());
}

void add_serve(CommandLine& line) {
  auto flags = std::make_shared<CommonFlags>();
  Arguments command = line.add("serve", "serve models over HTTP", [flags] {
    return serve_command(flags->overrides, flags->env_file, flags->env_required);
  });
  flags->add_to(command);
  flags->setting(command, "-m,--models", "LLM_ALLOWED_MODELS", "comma-separated model references");
  flags->setting(command, "--host", "LLM_INFERENCE_HOSTNAME", "address to bind");
  flags->setting(command, "--port", "LLM_INFERENCE_PORT", "port to bind");
  flags->setting(command, "-c,--context", "LLM_CONTEXT_SIZE", "longest sequence in tokens");
  flags->setting(command, "--max-concurrent", "LLM_MAX_CONCURRENT_REQUESTS", "requests generating at once");
}

}  // namespace quern
