// The quern command: one subcommand a file.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <new>
#include <system_error>

#include "command.h"
#include "hub_command.h"

int main(int argc, char** argv) {
  using namespace quern;
  // A reader that closes our pipe ends the write, not the process.
  std::signal(SIGPIPE, SIG_IGN);

  CLI::App app{"Quern: an LLM inference server for quantized models"};
  app.set_version_flag("--version", "quern " QUERN_VERSION);
  app.require_subcommand(1);
  Action action;
  add_serve(app, action);
  add_run(app, action);
  add_pull(app, action);
  add_list(app, action);
  add_rm(app, action);
  add_inspect(app, action);
  add_tokenize(app, action);
  add_bench(app, action);
  add_quantize(app, action);
  add_imatrix(app, action);
  add_perplexity(app, action);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    if (argc == 1) {
      fmt::print(stderr, "{}", app.help());
      return kUsage;
    }
    const auto chosen = app.get_subcommands();
    const std::string help =
        chosen.empty() ? "quern --help" : "quern " + chosen.front()->get_name() + " --help";
    if (chosen.empty() && argv[1][0] != '-')
      fmt::print(stderr, "error: {}: no such command: see {}\n", argv[1], help);
    else
      fmt::print(stderr, "error: {}: see {}\n", error.what(), help);
    return kUsage;
  }
  try {
    return action();
  } catch (const std::bad_alloc&) {
    return report({ErrorCode::resource_exhausted, "out of memory: use a smaller model, or make room"});
  } catch (const std::system_error& failure) {
    if (failure.code() != std::errc::resource_unavailable_try_again)
      return report({ErrorCode::internal, failure.what()});
    return report({ErrorCode::resource_exhausted,
                   "cannot start a thread: raise the limit on processes (ulimit -u, TasksMax, pids.max)"});
  } catch (const std::exception& failure) {
    return report({ErrorCode::internal, failure.what()});
  }
}
