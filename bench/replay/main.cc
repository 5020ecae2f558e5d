// quern_replay: a model of any weights answers with given texts, so that what is measured is the time that
// answers of that kind take: a step costs what it costs, and guesses come true as often as in those texts.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>

#include "engine/served_model.h"
#include "replay_model.h"

namespace quern::replay {
namespace {

struct Flags {
  std::string model;
  std::vector<std::string> prompts, answers;
  int32_t worst = 0;
  int worst_order = 3;
  int64_t worst_prompt = 200;
  int64_t most_answer = 400, most_prompt = 1500;
  int streams = 1, rounds = 3, threads = 0;
  bool json = false;
};

struct Measured {
  double seconds = 0;  // from the first token to the last, all streams together
  double tokens = 0;
  uint64_t proposed = 0, accepted = 0, steps = 0;
};

Result<std::string> read_text(const std::string& path) {
  std::ifstream file(path);
  if (!file) return fail(ErrorCode::not_found, "{}: cannot be read", path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

/// A text on which every guess is wrong: `order` tokens in a row never come twice (a de Bruijn sequence, made
/// as Fredricksen, Kessler and Maiorana do), so whatever the last order − 1 were followed by before, it is
/// another token now.
std::vector<int32_t> worst_text(int32_t kinds, int order, int32_t first) {
  std::vector<int32_t> text, word(static_cast<size_t>(order) + 1);
  const auto extend = [&](const auto& self, int length, int period) -> void {
    if (length > order) {
      for (int i = 1; order % period == 0 && i <= period; ++i)
        text.push_back(first + word[static_cast<size_t>(i)]);
      return;
    }
    const int32_t same = word[static_cast<size_t>(length - period)];
    for (int32_t token = same; token < kinds; ++token) {
      word[static_cast<size_t>(length)] = token;
      self(self, length + 1, token == same ? period : length);
    }
  };
  extend(extend, 1, 1);
  return text;
}

/// The end of all requests of a run.
struct Gathered {
  std::mutex mutex;
  std::condition_variable changed;
  size_t ended = 0;
  double tokens = 0;
  std::string error;

  void add(const Event& event) {
    const std::lock_guard lock(mutex);
    if (const auto* finish = std::get_if<Finish>(&event)) {
      ++ended;
      tokens += finish->completion_tokens;
    } else if (const auto* failed = std::get_if<Error>(&event)) {
      ++ended;
      error = failed->message;
    }
    changed.notify_all();
  }
};

class Replay {
 public:
  Replay(std::unique_ptr<Engine> engine, std::vector<Script> scripts)
      : engine_(std::move(engine)), scripts_(std::move(scripts)) {}

  Result<Measured> run() {
    const EngineStats before = engine_->stats();
    Gathered gathered;
    double prefills = 0;
    const auto begin = std::chrono::steady_clock::now();
    for (const Script& script : scripts_) {
      Request request{.prompt = script.prompt,
                      .max_tokens = static_cast<int32_t>(script.answer.size()),
                      .ignore_eos = true};
      request.sampling.temperature = 0;
      QUERN_TRY_VOID(engine_->submit(std::move(request), [&](Event event) {
        if (const auto* finish = std::get_if<Finish>(&event))
          prefills = finish->queue_seconds + finish->prefill_seconds;
        gathered.add(event);
      }));
    }
    std::unique_lock lock(gathered.mutex);
    gathered.changed.wait(lock, [&] { return gathered.ended == scripts_.size(); });
    const std::chrono::duration<double> all = std::chrono::steady_clock::now() - begin;
    if (!gathered.error.empty()) return fail(ErrorCode::internal, "{}", gathered.error);
    const EngineStats after = engine_->stats();
    // Of one stream the prefill is left out; several overlap with each other's.
    const double prefill = scripts_.size() == 1 ? prefills : 0;
    return Measured{all.count() - prefill, gathered.tokens, after.drafts_proposed - before.drafts_proposed,
                    after.drafts_accepted - before.drafts_accepted, after.steps - before.steps};
  }

 private:
  std::unique_ptr<Engine> engine_;
  std::vector<Script> scripts_;
};

Result<std::vector<Script>> read_scripts(const Flags& flags, const Tokenizer& tokenizer) {
  std::vector<Script> scripts;
  for (size_t i = 0; i < flags.prompts.size(); ++i) {
    QUERN_TRY(const std::string prompt, read_text(flags.prompts[i]));
    QUERN_TRY(const std::string answer, read_text(flags.answers[i]));
    scripts.push_back({tokenizer.encode(prompt, {}), tokenizer.encode(answer, {})});
  }
  if (flags.worst > 0) {
    const std::vector<int32_t> text = worst_text(flags.worst, flags.worst_order, 300);
    const auto cut = text.begin() + std::min<int64_t>(flags.worst_prompt, std::ssize(text) / 2);
    scripts.push_back({{text.begin(), cut}, {cut, text.end()}});
  }
  for (Script& script : scripts) {
    script.prompt.resize(std::min(script.prompt.size(), static_cast<size_t>(flags.most_prompt)));
    script.answer.resize(std::min(script.answer.size(), static_cast<size_t>(flags.most_answer)));
  }
  // Streams beyond the texts there are: the same ones after another first token.
  const size_t texts = scripts.size();
  while (texts > 0 && scripts.size() < static_cast<size_t>(flags.streams)) {
    Script copy = scripts[scripts.size() % texts];
    copy.prompt.insert(copy.prompt.begin(), static_cast<int32_t>(500 + scripts.size()));
    scripts.push_back(std::move(copy));
  }
  return scripts;
}

Result<Replay> make_replay(Backend& backend, const WeightSource& source,
                           const std::shared_ptr<const Tokenizer>& tokenizer,
                           const std::vector<Script>& scripts, int64_t draft_rows) {
  int64_t longest = 1;
  for (const Script& script : scripts)
    longest = std::max(longest, std::ssize(script.prompt) + std::ssize(script.answer));
  EngineOptions options;
  options.max_running = static_cast<int>(std::max<size_t>(1, scripts.size()));
  options.context = longest + 8;
  options.prefix_caching = false;
  options.draft_rows = draft_rows;
  ModelOptions load;
  load.max_batch_rows = options.max_running + options.chunk_rows;
  load.context = options.context;
  QUERN_TRY(auto inner, load_model(source, backend, load));
  auto model = std::make_unique<ReplayModel>(std::move(inner));
  model->set_scripts(scripts);
  QUERN_TRY(auto engine, Engine::create(backend, std::move(model), tokenizer, options));
  return Replay(std::move(engine), scripts);
}

Measured median(std::vector<Measured> runs) {
  std::ranges::sort(runs, {}, &Measured::seconds);
  return runs[runs.size() / 2];
}

Result<> replay(const Flags& flags) {
  QUERN_TRY(const auto source, open_model_source(flags.model, ""));
  QUERN_TRY(const std::shared_ptr<const Tokenizer> tokenizer,
            Tokenizer::from_metadata(source->metadata(), nullptr));
  QUERN_TRY(const auto backend, make_cpu_backend({.threads = flags.threads}));
  QUERN_TRY(const auto scripts, read_scripts(flags, *tokenizer));
  QUERN_TRY(Replay plain, make_replay(*backend, *source, tokenizer, scripts, 0));
  QUERN_TRY(Replay guessing, make_replay(*backend, *source, tokenizer, scripts, EngineOptions().draft_rows));
  backend->settle();
  std::vector<Measured> without, with;
  for (int round = 0; round <= flags.rounds; ++round) {  // turn by turn; the first warms up
    QUERN_TRY(const Measured one, plain.run());
    QUERN_TRY(const Measured two, guessing.run());
    if (round == 0 && flags.rounds > 0) continue;
    without.push_back(one);
    with.push_back(two);
  }
  const Measured a = median(without), b = median(with);
  const double ratio = a.seconds / a.tokens * b.tokens / b.seconds;
  if (flags.json) {
    const nlohmann::ordered_json report = {{"streams", scripts.size()},
                                           {"tokens", b.tokens},
                                           {"plain_tokens_per_second", a.tokens / a.seconds},
                                           {"guessing_tokens_per_second", b.tokens / b.seconds},
                                           {"ratio", ratio},
                                           {"plain_steps", a.steps},
                                           {"steps", b.steps},
                                           {"proposed", b.proposed},
                                           {"accepted", b.accepted}};
    fmt::print("{}\n", report.dump());
    return {};
  }
  fmt::print(
      "{} streams, {} tokens: {:.2f} tokens/s, guessing {:.2f} ({:.2f} times); {} steps, then {}; of {} "
      "guesses {} "
      "came true\n",
      scripts.size(), b.tokens, a.tokens / a.seconds, b.tokens / b.seconds, ratio, a.steps, b.steps,
      b.proposed, b.accepted);
  return {};
}

}  // namespace
}  // namespace quern::replay

int main(int argc, char** argv) {
  quern::replay::Flags flags;
  CLI::App app("Times given answers in an engine, with and without guessing.", "quern_replay");
  app.add_option("model", flags.model, "a GGUF file; its weights do not matter")->required();
  app.add_option("--prompt", flags.prompts, "file with a prompt; may come several times");
  app.add_option("--answer", flags.answers, "file with the answer to it");
  app.add_option("--worst", flags.worst, "a text on which every guess is wrong, over so many tokens");
  app.add_option("--worst-order", flags.worst_order, "that many tokens in a row never come twice in it");
  app.add_option("--worst-prompt", flags.worst_prompt, "tokens of it that are the prompt");
  app.add_option("--most-answer", flags.most_answer, "cut answers to so many tokens");
  app.add_option("--most-prompt", flags.most_prompt, "cut prompts to so many tokens");
  app.add_option("--streams", flags.streams, "answers at once; texts are used several times");
  app.add_option("--rounds", flags.rounds, "the median counts");
  app.add_option("--threads", flags.threads, "CPU threads");
  app.add_flag("--json", flags.json);
  CLI11_PARSE(app, argc, argv);
  if (flags.prompts.size() != flags.answers.size()) {
    fmt::print(stderr, "error: {} prompts and {} answers\n", flags.prompts.size(), flags.answers.size());
    return 2;
  }
  const auto done = quern::replay::replay(flags);
  if (done) return 0;
  fmt::print(stderr, "error: {}\n", done.error().message);
  return 1;
}
