// quern run: chat in the terminal, or answer once.
#include <editline/readline.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <iostream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>

#include "command.h"
#include "engine/chat_prompt.h"
#include "fetch_model.h"
#include "isq.h"
#include "load_options.h"
#include "sampling/defaults.h"

namespace quern {
namespace {

struct RunFlags {
  CommonFlags common;
  std::string model;
  std::string prompt;
  std::string system;
  bool json = false;
};

std::atomic<bool> g_interrupted{false};
void on_interrupt(int) { g_interrupted.store(true); }

/// Events of one answer, handed from the engine's thread to this one.
class EventQueue {
 public:
  void push(Event event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    ready_.notify_one();
  }
  /// Empty after a tenth of a second without an event, so that Ctrl-C is seen.
  std::optional<Event> pop() {
    std::unique_lock lock(mutex_);
    if (!ready_.wait_for(lock, std::chrono::milliseconds(100), [this] { return !events_.empty(); }))
      return std::nullopt;
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Event> events_;
};

struct Answer {
  std::string text;
  Finish finish;
};

/// One model and how to ask it.
class Chat {
 public:
  Chat(std::shared_ptr<ServedModel> model, const Config& config)
      : model_(std::move(model)), config_(config) {}

  Result<std::vector<int32_t>> prompt(const nlohmann::ordered_json& messages) const {
    if (model_->chat_template == nullptr) {
      // A base model continues the text.
      const std::string text = messages.back()["content"];
      return model_->tokenizer->encode(text, {.add_special = true, .parse_special = true});
    }
    QUERN_TRY(const std::string rendered,
              render_chat(*model_, {{"messages", messages}, {"add_generation_prompt", true}}));
    return encode_chat(*model_, rendered);
  }

  /// Prints the answer as it comes (unless `quiet`). Ctrl-C ends it where it is.
  Result<Answer> ask(const nlohmann::ordered_json& messages, bool quiet) {
    QUERN_TRY(std::vector<int32_t> tokens, prompt(messages));
    Request request;
    request.id = "terminal";
    request.prompt = std::move(tokens);
    take_model_defaults(model_->source->metadata(), request.sampling);
    if (config_.default_temperature) request.sampling.temperature = *config_.default_temperature;
    if (config_.default_top_p) request.sampling.top_p = *config_.default_top_p;
    // Nobody wants a conversation cut short: unset, an answer is as long as any may be.
    request.max_tokens =
        std::min(config_.default_max_tokens.value_or(config_.max_tokens_limit), config_.max_tokens_limit);
    // The queue outlives this call: an event may be on its way while the answer is cancelled.
    const auto queue = std::make_shared<EventQueue>();
    g_interrupted.store(false);
    QUERN_TRY(const uint64_t ticket, model_->engine->submit(std::move(request), [queue](Event event) {
      queue->push(std::move(event));
    }));
    Answer answer;
    while (true) {
      if (g_interrupted.exchange(false)) {
        model_->engine->cancel(ticket);
        answer.finish.reason = FinishReason::cancelled;
        return answer;
      }
      std::optional<Event> event = queue->pop();
      if (!event) continue;
      if (auto* delta = std::get_if<Delta>(&*event)) {
        answer.text += delta->text;
        if (!quiet) std::cout << delta->text << std::flush;
      } else if (auto* finish = std::get_if<Finish>(&*event)) {
        answer.finish = std::move(*finish);
        return answer;
      } else if (auto* error = std::get_if<Error>(&*event)) {
        return fail(std::move(*error));
      }
    }
  }

  const ServedModel& model() const { return *model_; }

 private:
  std::shared_ptr<ServedModel> model_;
  const Config& config_;
};

std::string_view finish_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::length:
      return "length";
    case FinishReason::stop:
      return "stop";
    case FinishReason::eos:
      return "eos";
    case FinishReason::cancelled:
      return "cancelled";
  }
  return "";
}

nlohmann::ordered_json opening(const std::string& system) {
  auto messages = nlohmann::ordered_json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  return messages;
}

Result<> answer_once(Chat& chat, const RunFlags& flags) {
  auto messages = opening(flags.system);
  messages.push_back({{"role", "user"}, {"content", flags.prompt}});
  QUERN_TRY(const Answer answer, chat.ask(messages, flags.json));
  if (flags.json) {
    const nlohmann::ordered_json report = {{"text", answer.text},
                                           {"model", chat.model().id},
                                           {"tokens_generated", answer.finish.completion_tokens},
                                           {"finish_reason", finish_name(answer.finish.reason)}};
    std::cout << report.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }
  std::cout << std::endl;
  return {};
}

std::filesystem::path history_file() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  std::filesystem::path folder;
  if (state != nullptr && *state != '\0')
    folder = state;
  else if (home != nullptr)
    folder = std::filesystem::path(home) / ".local/state";
  else
    return {};
  std::error_code ignored;
  std::filesystem::create_directories(folder / "quern", ignored);
  return folder / "quern" / "history";
}

constexpr std::string_view kHelp =
    "/clear        start a new conversation\n"
    "/system TEXT  start a new conversation with this system message\n"
    "/help         this list\n"
    "/exit         leave (Ctrl-D too); Ctrl-C stops an answer\n";

/// The loop of a conversation; returns when the user leaves.
Result<> converse(Chat& chat, const RunFlags& flags) {
  const std::filesystem::path history = history_file();
  using_history();
  stifle_history(1000);
  if (!history.empty()) read_history(history.c_str());
  fmt::print("{}: /help lists the commands\n", chat.model().id);
  auto messages = opening(flags.system);
  while (true) {
    g_interrupted.store(false);
    const std::unique_ptr<char, decltype(&std::free)> raw(readline("> "), std::free);
    if (raw == nullptr) {
      if (g_interrupted.exchange(false)) {
        fmt::print("\n");
        continue;  // Ctrl-C at the prompt: a fresh line
      }
      break;
    }
    const std::string line = raw.get();
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    add_history(line.c_str());
    if (!history.empty()) write_history(history.c_str());
    if (line == "/exit" || line == "/quit" || line == "/bye") break;
    if (line == "/help") {
      fmt::print("{}", kHelp);
    } else if (line == "/clear") {
      messages = opening(flags.system);
    } else if (line.starts_with("/system ")) {
      messages = opening(line.substr(8));
    } else if (line.starts_with("/")) {
      fmt::print("unknown command {}: /help lists them\n", line);
    } else {
      messages.push_back({{"role", "user"}, {"content", line}});
      const auto answer = chat.ask(messages, false);
      fmt::print("\n");
      std::fflush(stdout);
      if (!answer) {
        report(answer.error());
        messages.erase(messages.size() - 1);
        continue;
      }
      messages.push_back({{"role", "assistant"}, {"content", answer->text}});
    }
  }
  fmt::print("\n");
  return {};
}

/// Quantized on its way from the hub, where ISQ is asked for.
Result<ModelFiles> model_files(const RunFlags& flags, const Config& config) {
  const std::string reference = model_or_default(flags.model, config);
  if (config.enable_isq && !is_local_model(reference, config.model_path)) {
    QUERN_TRY(HubOptions options, hub_options(flags.common, config));
    QUERN_TRY(auto quantized, fetch_quantized(Hub(std::move(options)), config, reference, {}, {}));
    if (quantized) return *std::move(quantized);
  }
  return local_model(flags.common, config, reference);
}

Result<> run(RunFlags flags) {
  QUERN_TRY(const Config config, flags.common.load(true));
  if (flags.prompt.empty() && isatty(STDIN_FILENO) == 0)
    flags.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  QUERN_TRY(const auto backend, backend_of(config));
  QUERN_TRY(LoadOptions options, load_options(config, *backend));
  options.engine.max_running = 1;
  QUERN_TRY(const ModelFiles files, model_files(flags, config));
  QUERN_TRY(auto model, open_model(*backend, files, options));

  struct sigaction action {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: a read at the prompt returns
  sigaction(SIGINT, &action, nullptr);
  Chat chat(std::move(model), config);
  if (!flags.prompt.empty()) return answer_once(chat, flags);
  if (isatty(STDIN_FILENO) == 0)
    return fail(ErrorCode::invalid_argument, "run: the prompt on stdin is empty: give one with -p TEXT");
  return converse(chat, flags);
}

}  // namespace

void add_run(CommandLine& line) {
  auto flags = std::make_shared<RunFlags>();
  Arguments command = line.add("run", "chat in the terminal, or answer once with -p",
                               [flags] { return status_of(run(*flags)); });
  command.text("MODEL", flags->model, "model reference (default: the first allowed model)");
  command.text("-p,--prompt", flags->prompt,
               "answer this and exit (stdin is read when it is not a terminal)");
  command.text("-s,--system", flags->system, "system message");
  command.flag("--json", flags->json, "with -p: print one JSON object");
  flags->common.add_to(command);
  flags->common.setting(command, "--temperature", "LLM_DEFAULT_TEMPERATURE", "0 is greedy");
  flags->common.setting(command, "--top-p", "LLM_DEFAULT_TOP_P", "nucleus sampling");
  flags->common.setting(command, "-n,--max-tokens", "LLM_DEFAULT_MAX_TOKENS", "longest answer");
  flags->common.setting(command, "-c,--context", "LLM_CONTEXT_SIZE", "longest conversation in tokens");
}

}  // namespace quern
