// quern_serving: the same requests through the engine and over HTTP, by clients in a closed loop; and how
// soon the first token comes when another request had most of the prompt.
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>

#include "clients.h"
#include "core/log.h"
#include "http/server.h"

namespace quern::serving {
namespace {

struct Flags {
  std::string model = "quern/guide";
  int clients = 8, requests = 4, rounds = 3, threads = 0;
  int32_t prompt = 70, answer = 48;
  int32_t prefix_prompt = 1000;
  double prefix_share = 0.9;
};

/// A model, its engine and a server on a free port.
struct Served {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<ModelHost> host;
  Config config;
  std::unique_ptr<Server> server;
  std::jthread runner;
  std::shared_ptr<ServedModel> model;

  ~Served() {
    model.reset();
    if (server) server->stop(std::chrono::milliseconds(0));
    if (runner.joinable()) runner.join();
    if (host) host->stop(std::chrono::milliseconds(0));
  }
};

Result<std::unique_ptr<Served>> serve(const Flags& flags) {
  auto served = std::make_unique<Served>();
  QUERN_TRY(served->backend, make_cpu_backend({.threads = flags.threads}));
  served->metrics = Metrics::create();
  HostOptions options;
  options.models = {flags.model};
  options.load.engine.max_running = std::max(flags.clients, 2);
  options.load.engine.context = std::max(flags.prompt + flags.answer, flags.prefix_prompt) + 64;
  served->host = ModelHost::start(*served->backend, options, served->metrics.get());
  served->config.port = 0;
  served->config.hostname = "127.0.0.1";
  QUERN_TRY(served->server, Server::create(served->config, *served->host, *served->metrics));
  served->runner = std::jthread([server = served->server.get()] { server->run(); });
  while (true) {
    QUERN_TRY(served->model, served->host->get(""));
    if (served->model) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  served->backend->settle();
  return served;
}

/// Made-up words until they are `length` tokens or a little more, after the words of `start`.
Prompt random_prompt(const Tokenizer& tokenizer, int64_t length, uint64_t seed, const Prompt& start = {}) {
  std::mt19937_64 random(seed);
  Prompt prompt = start;
  const auto letter = [&](std::string_view from) { return from[random() % from.size()]; };
  while (std::ssize(prompt.tokens) < length) {
    if (!prompt.text.empty()) prompt.text += ' ';
    for (auto syllables = 1 + random() % 3; syllables > 0; --syllables)
      prompt.text += {letter("bdfgklmnprstvz"), letter("aeiou")};
    prompt.tokens = tokenizer.encode(prompt.text);
  }
  return prompt;
}

struct Round {
  double tokens_per_second = 0;
  std::vector<double> firsts;
};

/// All clients ask until each has had its requests answered. Prompts are new in every round: the cache would
/// have those of an earlier one.
Result<Round> closed_loop(std::vector<std::unique_ptr<Transport>>& clients, const Flags& flags,
                          const Tokenizer& tokenizer, uint64_t seed) {
  Round round;
  std::mutex mutex;
  std::string error;
  int64_t tokens = 0;
  std::vector<std::vector<Prompt>> prompts(clients.size());
  for (size_t c = 0; c < clients.size(); ++c)
    for (int i = 0; i < flags.requests; ++i)
      prompts[c].push_back(
          random_prompt(tokenizer, flags.prompt, seed + c * 1000 + static_cast<uint64_t>(i)));
  const auto begin = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> threads;
    for (size_t c = 0; c < clients.size(); ++c)
      threads.emplace_back([&, c] {
        for (const Prompt& prompt : prompts[c]) {
          const auto answer = clients[c]->ask(prompt, flags.answer);
          const std::lock_guard lock(mutex);
          if (!answer) {
            error = answer.error().message;
            return;
          }
          tokens += answer->tokens;
          round.firsts.push_back(answer->first);
        }
      });
  }
  if (!error.empty()) return fail(ErrorCode::internal, "{}", error);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  round.tokens_per_second = static_cast<double>(tokens) / seconds.count();
  return round;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.empty() ? 0 : values[values.size() / 2];
}

Result<> compare_transports(Served& served, const Flags& flags) {
  const Tokenizer& tokenizer = *served.model->tokenizer;
  std::vector<std::unique_ptr<Transport>> direct, http;
  for (int i = 0; i < flags.clients; ++i) {
    direct.push_back(in_process(*served.model->engine));
    QUERN_TRY(auto client, over_http(served.server->port(), flags.model));
    http.push_back(std::move(client));
  }
  std::vector<double> direct_speed, http_speed, ratios, direct_first, http_first;
  for (int round = 0; round <= flags.rounds; ++round) {  // turn by turn, either first; round 0 warms up
    Round rounds[2];
    for (int turn = 0; turn < 2; ++turn) {
      const bool over = (turn + round) % 2 == 0;
      const auto seed = static_cast<uint64_t>(round * 2 + turn + 1) * 1'000'000;
      QUERN_TRY(rounds[over ? 1 : 0], closed_loop(over ? http : direct, flags, tokenizer, seed));
    }
    if (round == 0) continue;
    direct_speed.push_back(rounds[0].tokens_per_second);
    http_speed.push_back(rounds[1].tokens_per_second);
    ratios.push_back(http_speed.back() / direct_speed.back());
    direct_first.push_back(median(rounds[0].firsts));
    http_first.push_back(median(rounds[1].firsts));
  }
  fmt::print(
      "{} clients, prompts of {}, answers of {} tokens: engine {:.1f} tokens/s, first token {:.3f} s; over "
      "HTTP "
      "{:.1f} tokens/s, first token {:.3f} s; ratio {:.3f} ({:.3f})\n",
      flags.clients, flags.prompt, flags.answer, median(direct_speed), median(direct_first),
      median(http_speed), median(http_first), median(ratios), fmt::join(ratios, " "));
  return {};
}

/// Seconds to the first token of a new prompt, and of one whose beginning the request before it had.
Result<> compare_prefixes(Served& served, const Flags& flags) {
  const Tokenizer& tokenizer = *served.model->tokenizer;
  QUERN_TRY(const auto client, over_http(served.server->port(), flags.model));
  const auto shared = static_cast<int64_t>(flags.prefix_share * flags.prefix_prompt);
  std::vector<double> full, rest, ratios;
  for (int round = 0; round <= flags.rounds; ++round) {
    const auto seed = static_cast<uint64_t>(round) * 10 + 7;
    const Prompt common = random_prompt(tokenizer, shared, seed);
    const Prompt one = random_prompt(tokenizer, flags.prefix_prompt, seed + 1, common);
    const Prompt other = random_prompt(tokenizer, flags.prefix_prompt, seed + 2, common);
    QUERN_TRY(const Answer first, client->ask(one, 2));
    QUERN_TRY(const Answer second, client->ask(other, 2));
    if (round == 0) continue;
    full.push_back(first.first);
    rest.push_back(second.first);
    ratios.push_back(second.first / first.first);
  }
  fmt::print(
      "prompts of {} tokens over HTTP: first token after {:.3f} s; where the first {} were another's {:.3f} "
      "s; ratio "
      "{:.3f} ({:.3f})\n",
      flags.prefix_prompt, median(full), shared, median(rest), median(ratios), fmt::join(ratios, " "));
  return {};
}

Result<> run(const Flags& flags) {
  QUERN_TRY(const auto served, serve(flags));
  if (flags.clients > 0) {
    QUERN_TRY_VOID(compare_transports(*served, flags));
  }
  if (flags.prefix_prompt > 0) {
    Flags within = flags;
    within.prefix_prompt =
        static_cast<int32_t>(std::min<int64_t>(flags.prefix_prompt, served->model->engine->context() - 32));
    QUERN_TRY_VOID(compare_prefixes(*served, within));
  }
  return {};
}

}  // namespace
}  // namespace quern::serving

int main(int argc, char** argv) {
  quern::serving::Flags flags;
  CLI::App app("Requests through the engine and over HTTP, side by side.", "quern_serving");
  app.add_option("model", flags.model, "a GGUF file (default: the bundled model)");
  app.add_option("--clients", flags.clients, "in a closed loop; 0: leave that out");
  app.add_option("--requests", flags.requests, "of each client in a round");
  app.add_option("--prompt", flags.prompt, "tokens");
  app.add_option("--answer", flags.answer, "tokens");
  app.add_option("--prefix-prompt", flags.prefix_prompt,
                 "tokens of the prompts that share a beginning; 0: leave that out");
  app.add_option("--prefix-share", flags.prefix_share, "part of them that is shared");
  app.add_option("--rounds", flags.rounds, "the median counts");
  app.add_option("--threads", flags.threads, "CPU threads");
  CLI11_PARSE(app, argc, argv);
  quern::log::init(quern::log::Format::pretty, quern::log::Level::error);
  const auto done = quern::serving::run(flags);
  if (done) return 0;
  fmt::print(stderr, "error: {}\n", done.error().message);
  return 1;
}
