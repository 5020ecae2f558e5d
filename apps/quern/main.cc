// The quern command: one subcommand a file.
#include <csignal>
#include <new>
#include <system_error>

#include "command.h"
#include "hub_command.h"

int main(int argc, char** argv) {
  using namespace quern;
  // A reader that closes our pipe ends the write, not the process.
  std::signal(SIGPIPE, SIG_IGN);

  CommandLine line("Quern: an LLM inference server for quantized models", "quern " QUERN_VERSION);
  add_serve(line);
  add_run(line);
  add_pull(line);
  add_list(line);
  add_rm(line);
  add_inspect(line);
  add_tokenize(line);
  add_bench(line);
  add_quantize(line);
  add_imatrix(line);
  add_perplexity(line);

  try {
    return line.run(argc, argv);
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
