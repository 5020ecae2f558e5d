// Guessed tokens change how long an answer takes, nothing else: engines that guess against the rule, and
// against engines over the same weights that do not.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <bit>
#include <numeric>

#include "engine/engine_fixture.h"
#include "models/random_model.h"

namespace quern {
namespace {

using namespace std::chrono_literals;
using testing::check_answer;
using testing::FakeTokenizer;
using testing::Fixture;
using testing::greedy;
using testing::random_request;
using testing::Receiver;
using testing::run_many;
using testing::some_prompt;

/// A fake model with this repeats about half of what it could.
constexpr float kCopies = 8;
/// Rows so cheap that every guess seems worth it.
constexpr double kCheap = 1e-6;

EngineOptions guessing(EngineOptions options) {
  options.draft_cost = kCheap;
  return options;
}

TEST(Draft, AnswersAmongOthersFollowTheRule) {
  Fixture fixture(guessing({.max_running = 10, .max_queued = 1000, .block_size = 8, .chunk_rows = 24}), 512,
                  nullptr, {}, kCopies);
  run_many(fixture, 280, 6, false);
  const EngineStats stats = fixture.engine->stats();
  EXPECT_GT(stats.drafts_accepted, 500u);
  EXPECT_GT(stats.drafts_proposed, stats.drafts_accepted + 500) << "many must have been wrong, too";
}

TEST(Draft, AnswersSurviveBeingPutBack) {
  for (const bool caching : {false, true}) {
    Fixture fixture(guessing({.max_running = 8,
                              .max_queued = 1000,
                              .kv_bytes = 24 * 8 * sizeof(int32_t),
                              .block_size = 8,
                              .prefix_caching = caching,
                              .chunk_rows = 16}),
                    512, nullptr, {}, kCopies);
    run_many(fixture, 150, 6, true);
    EXPECT_GT(fixture.engine->stats().preemptions, 5u);
    EXPECT_GT(fixture.engine->stats().drafts_accepted, 100u);
  }
}

// A text that repeats itself exactly: the answer comes in a fraction of its tokens' steps, and every token is
// counted and timed once.
TEST(Draft, ARepeatedTextTakesFewerSteps) {
  struct Observer : EngineObserver {
    std::atomic<int> firsts = 0, outputs = 0, ends = 0;
    void first_token(double) override { ++firsts; }
    void output_token(double seconds) override { outputs += seconds >= 0; }
    void finished(double, FinishReason) override { ++ends; }
  } observer;
  Fixture fixture(guessing({.block_size = 16}), 512, &observer, {}, 100);
  Request request = greedy(some_prompt(40, 1), 300);
  request.ignore_eos = true;
  Receiver receiver;
  ASSERT_TRUE(fixture.engine->submit(request, receiver.sink()));
  receiver.wait();
  check_answer(receiver, request, fixture.engine->context(), fixture.copies);
  const EngineStats stats = fixture.engine->stats();
  EXPECT_EQ(stats.generated_tokens, 300u);
  EXPECT_LT(stats.steps, 100u);
  EXPECT_EQ(observer.firsts, 1);
  EXPECT_EQ(observer.outputs, 299);
  EXPECT_EQ(observer.ends, 1);
  fixture.expect_idle();
}

// max_tokens, the context's end and stop strings inside a run of accepted guesses.
TEST(Draft, AnAnswerEndsInsideAnAcceptedRun) {
  Fixture fixture(guessing({.block_size = 16}), 128, nullptr, {}, 100);
  for (int32_t most = 1; most <= 100; ++most) {
    Request request = greedy(some_prompt(40, 1), most);
    request.ignore_eos = true;
    if (most % 3 == 0) request.stop = {"kk", "the"};
    Receiver receiver;
    ASSERT_TRUE(fixture.engine->submit(request, receiver.sink()));
    receiver.wait();
    SCOPED_TRACE(most);
    check_answer(receiver, request, fixture.engine->context(), fixture.copies);
    EXPECT_EQ(fixture.engine->context(), 128);
  }
  fixture.expect_idle();
}

// What the first request computed, guesses included, serves the second: its prompt is the first's text.
TEST(Draft, OnlyWhatCameTrueIsReused) {
  Fixture fixture(guessing({.block_size = 4}), 512, nullptr, {}, kCopies);
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Request first = greedy(some_prompt(30, seed), 60);
    first.ignore_eos = true;
    first.top_logprobs = 0;
    Receiver one, two;
    ASSERT_TRUE(fixture.engine->submit(first, one.sink()));
    one.wait();
    check_answer(one, first, fixture.engine->context(), fixture.copies);
    Request second = greedy(first.prompt, 60);
    for (const TokenInfo& token : one.tokens) second.prompt.push_back(token.token);
    const auto all = static_cast<int32_t>(second.prompt.size());
    ASSERT_TRUE(fixture.engine->submit(second, two.sink()));
    two.wait();
    check_answer(two, second, fixture.engine->context(), fixture.copies);
    EXPECT_GE(two.finish->cached_tokens, all - 8);
  }
  EXPECT_GT(fixture.engine->stats().drafts_accepted, 100u);
}

TEST(Draft, CancelledInTheMiddleOfARun) {
  Fixture fixture(guessing({.max_running = 6, .max_queued = 60, .block_size = 8, .chunk_rows = 16}), 300,
                  nullptr, {}, 100);
  std::vector<std::jthread> clients;
  for (uint32_t t = 0; t < 6; ++t)
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      for (uint32_t i = 0; i < 60; ++i) {
        const Request request = random_request(t * 1000 + i);
        auto receiver = std::make_shared<Receiver>();
        const auto ticket = fixture.engine->submit(
            request, [receiver, sink = receiver->sink()](Event e) { sink(std::move(e)); });
        ASSERT_TRUE(ticket);
        if (random() % 2 == 0) {
          receiver->wait_for_text();
          fixture.engine->cancel(*ticket);
          continue;
        }
        ASSERT_NO_FATAL_FAILURE(receiver->wait());
        check_answer(*receiver, request, fixture.engine->context(), fixture.copies);
      }
    });
  clients.clear();
  fixture.engine->stop(1h);
  fixture.expect_idle();
}

// ---- Real models: everything that a client sees, bit by bit, with and without guesses.

/// All events of one answer as text; chunk by chunk, since also those stay the same.
class Transcript {
 public:
  EventSink sink() {
    return [this](Event event) {
      const std::lock_guard lock(mutex_);
      std::visit([this](const auto& e) { add(e); }, event);
      changed_.notify_all();
    };
  }
  std::string wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, 2 * testing::kPatience, [&] { return ended_; }));
    return text_;
  }

 private:
  void add(const TokenInfo& info) {
    const auto bits = [](float value) { return std::bit_cast<uint32_t>(value); };
    text_ += fmt::format("{}:{}:{:x}", info.token, info.has_logprob, bits(info.logprob));
    for (const TokenLogprob& top : info.top) text_ += fmt::format(",{}:{:x}", top.token, bits(top.logprob));
    text_ += ' ';
  }
  void add(const PromptInfo& info) {
    text_ += "prompt ";
    for (const TokenInfo& token : info.tokens) add(token);
    text_ += '\n';
  }
  void add(const Delta& delta) {
    text_ += fmt::format("delta '{}' {} ", delta.text, delta.count);
    for (const TokenInfo& token : delta.tokens) add(token);
    text_ += '\n';
  }
  void add(const Finish& finish) {
    text_ += fmt::format("finish {} '{}' {} {}\n", static_cast<int>(finish.reason), finish.stop,
                         finish.prompt_tokens, finish.completion_tokens);
    ended_ = true;
  }
  void add(const Error& error) {
    text_ += "error " + error.message;
    ended_ = true;
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  bool ended_ = false;
};

/// Requests of all kinds. Cold sampling, because a random model's warm text never repeats itself. `n` asks of
/// one prompt follow one another: what a request for n answers comes to.
Request model_request(uint32_t seed, int32_t vocab, int64_t context) {
  const uint32_t n = 3;
  std::mt19937 random(seed / n);
  Request request;
  const size_t length = 2 + random() % 90;
  const auto period = 1 + random() % 20;
  for (size_t i = 0; i < length; ++i)
    request.prompt.push_back(i >= period && random() % 8 != 0 ? request.prompt[i - period]
                                                              : static_cast<int32_t>(random() % (vocab - 1)));
  request.max_tokens = static_cast<int32_t>(1 + random() % 80);
  if (random() % 10 == 0) request.max_tokens = static_cast<int32_t>(context);
  request.sampling.temperature = std::array{0.0f, 0.0f, 0.1f, 0.3f, 0.8f}[random() % 5];
  request.sampling.seed = seed;
  request.sampling.top_p = random() % 2 == 0 ? 1.0f : 0.8f;
  if (random() % 3 == 0) request.sampling.top_k = 4;
  if (random() % 3 == 0) request.sampling.min_p = 0.1f;
  if (random() % 4 == 0) request.sampling.repetition_penalty = 1.2f;
  if (random() % 4 == 0) request.sampling.frequency_penalty = 0.05f;
  if (random() % 4 == 0) request.sampling.presence_penalty = 0.2f;
  if (random() % 4 == 0) request.sampling.logit_bias = {{1, 2.0f}, {2, -100.0f}, {3, 1.5f}};
  if (random() % 2 == 0) request.stop = {"bb", "the a", "\xe2\x82\xac"};
  if (random() % 3 != 0) request.ignore_eos = true;
  if (random() % 2 == 0) request.top_logprobs = static_cast<int>(random() % 4);
  if (random() % 8 == 0) request.prompt_logprobs = true;
  return request;
}

struct Case {
  const char* name;
  testing::ModelSpec spec;
  KvType kv = KvType::f16;
};

class DraftModels : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int kRequests = 90;

  /// The transcripts of all requests, at most ten at once, in a cache that is too small for ten.
  std::vector<std::string> answers(int64_t draft_rows, EngineStats& stats) {
    const Case& c = GetParam();
    const auto source = testing::random_model(c.spec);
    auto backend = make_cpu_backend({.threads = 2});
    EXPECT_TRUE(backend);
    auto model = load_model(*source, **backend, {.max_batch_rows = 64});
    EXPECT_TRUE(model) << model.error().message;
    const uint64_t block =
        (*backend)->kv_block_bytes((*model)->kv_shape(8, c.kv)) * static_cast<uint64_t>(c.spec.layers);
    const auto vocab = static_cast<int32_t>(c.spec.vocab);
    auto engine = Engine::create(**backend, *std::move(model), std::make_shared<FakeTokenizer>(vocab),
                                 guessing({.max_running = 10,
                                           .max_queued = 1000,
                                           .context = c.spec.context,
                                           .kv_bytes = 60 * block,
                                           .kv_type = c.kv,
                                           .block_size = 8,
                                           .chunk_rows = 24,
                                           .draft_rows = draft_rows}));
    EXPECT_TRUE(engine) << engine.error().message;
    std::vector<Transcript> transcripts(kRequests);
    {
      const std::lock_guard hold((*backend)->step_mutex);  // all are there before the first runs
      for (uint32_t i = 0; i < kRequests; ++i)
        EXPECT_TRUE((*engine)->submit(model_request(i, vocab, (*engine)->context()), transcripts[i].sink()));
    }
    std::vector<std::string> texts;
    for (Transcript& transcript : transcripts) texts.push_back(transcript.wait());
    stats = (*engine)->stats();
    return texts;
  }
};

TEST_P(DraftModels, EveryBitIsTheSame) {
  EngineStats without, with;
  const auto expected = answers(0, without);
  const auto got = answers(16, with);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(got[i], expected[i]) << "request " << i;
  EXPECT_EQ(without.drafts_proposed, 0u);
  EXPECT_EQ(with.generated_tokens, without.generated_tokens);
  EXPECT_LT(with.steps, without.steps);
  EXPECT_GT(with.drafts_accepted, 200u);
  EXPECT_GT(with.drafts_proposed, with.drafts_accepted + 200);
  EXPECT_GT(with.preemptions, 0u);
}

const Case kCases[] = {
    {"llama", {.context = 256}},
    {"llama_q8_0_kv", {.context = 256, .dtype = DType::Q8_0, .seed = 2}, KvType::q8_0},
    {"qwen3_q4_0", {.arch = "qwen3", .context = 256, .dtype = DType::Q4_0, .seed = 3}},
    {"phi3_window", {.arch = "phi3", .context = 256, .window = 24, .seed = 4}},
    {"qwen2_biases", {.arch = "qwen2", .context = 256, .biases = true, .seed = 5}},
    {"mixtral", {.context = 256, .experts = 4, .experts_used = 2, .seed = 6}},
    {"llama_q4_k", {.dim = 256, .ffn = 256, .head_dim = 64, .context = 256, .dtype = DType::Q4_K, .seed = 7}},
};

INSTANTIATE_TEST_SUITE_P(Models, DraftModels, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace quern
