// An engine over a fake model, and what each request must be answered with: for tests of the engine.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/fake_model.h"

namespace quern::testing {

constexpr int32_t kVocab = 64;
constexpr std::chrono::seconds kPatience(60);

/// Receives one request's events and checks their order.
class Receiver {
 public:
  EventSink sink() {
    return [this](Event event) { receive(std::move(event)); };
  }
  void wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kPatience, [&] { return ended; })) << "no end after a minute";
  }
  void wait_for_text() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kPatience, [&] { return ended || !text.empty(); }));
  }
  int events() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }

  std::string text;
  std::vector<TokenInfo> tokens;
  std::vector<TokenInfo> prompt;
  int prompt_infos = 0;
  int32_t count = 0;
  bool ended = false;
  std::optional<Finish> finish;
  std::optional<Error> error;

 private:
  void receive(Event event) {
    const std::lock_guard lock(mutex_);
    ++events_;
    EXPECT_FALSE(ended) << "nothing follows the end";
    if (auto* info = std::get_if<PromptInfo>(&event)) {
      EXPECT_TRUE(text.empty());
      ++prompt_infos;
      prompt = std::move(info->tokens);
    } else if (auto* delta = std::get_if<Delta>(&event)) {
      text += delta->text;
      count += delta->count;
      for (TokenInfo& token : delta->tokens) tokens.push_back(std::move(token));
    } else {
      ended = true;
      if (auto* f = std::get_if<Finish>(&event)) finish = *f;
      if (auto* e = std::get_if<Error>(&event)) error = *e;
    }
    changed_.notify_all();
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int events_ = 0;
};

/// What a request must be answered with, computed without an engine.
struct Expected {
  std::string text;
  FinishReason reason = FinishReason::length;
  std::string stop;
  std::vector<int32_t> tokens;
};

inline Expected expect(const Request& request, int64_t context, float copies) {
  const FakeTokenizer tokenizer(kVocab);
  Sampler sampler(request.sampling, request.prompt, kVocab);
  std::vector<int32_t> all = request.prompt;
  Expected expected;
  std::string bytes;
  const auto cut_at_stop = [&](const std::string& text) {
    size_t cut = std::string::npos;
    for (const std::string& stop : request.stop) {
      const size_t found = text.find(stop);
      if (found < cut) {
        cut = found;
        expected.stop = stop;
      }
    }
    expected.text = text.substr(0, cut);
    if (cut != std::string::npos) expected.reason = FinishReason::stop;
  };
  while (static_cast<int32_t>(expected.tokens.size()) < request.max_tokens) {
    std::vector<float> logits(kVocab);
    FakeModel::logits_after(all, copies, logits);
    const int32_t token = sampler.sample(logits).token;
    if (tokenizer.is_eog(token) && !request.ignore_eos) {
      expected.reason = FinishReason::eos;
      break;
    }
    expected.tokens.push_back(token);
    bytes += tokenizer.piece(token, request.special_text);
    all.push_back(token);
    if (static_cast<int64_t>(request.prompt.size() + expected.tokens.size()) >= context) break;
  }
  Utf8Stream utf8;
  std::string text = utf8.push(bytes);
  text += utf8.finish();
  cut_at_stop(text);
  return expected;
}

struct Fixture {
  FakeBackend backend;
  const float copies;
  const FakeModel* model = nullptr;  // the engine's
  std::unique_ptr<Engine> engine;

  explicit Fixture(EngineOptions options = {}, int64_t context = 512, EngineObserver* observer = nullptr,
                   std::function<Result<>(const ForwardBatch&)> before_forward = {}, float copying = 0)
      : copies(copying) {
    auto owned = std::make_unique<FakeModel>(kVocab, context, copies);
    owned->before_forward = std::move(before_forward);
    model = owned.get();
    auto made =
        Engine::create(backend, std::move(owned), std::make_shared<FakeTokenizer>(kVocab), options, observer);
    EXPECT_TRUE(made) << made.error().message;
    engine = *std::move(made);
  }

  /// The blocks come back within a moment: the last event is delivered after they have.
  void expect_idle() const {
    const EngineStats stats = engine->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks_total);
  }
};

inline Request greedy(std::vector<int32_t> prompt, int32_t max_tokens = 40) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = max_tokens;
  return request;
}

inline std::vector<int32_t> some_prompt(size_t length, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> prompt(length);
  for (int32_t& token : prompt) token = static_cast<int32_t>(random() % (kVocab - 1));
  return prompt;
}

/// All kinds of requests, some with the same beginning.
inline Request random_request(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> prompt = some_prompt(random() % 60, seed % 3);
  const auto own = some_prompt(1 + random() % 40, seed);
  prompt.insert(prompt.end(), own.begin(), own.end());
  Request request = greedy(std::move(prompt), static_cast<int32_t>(1 + random() % 60));
  if (random() % 2 == 0) {
    request.sampling.temperature = 0.9f;
    request.sampling.seed = seed;
    request.sampling.repetition_penalty = 1.1f;
    request.sampling.presence_penalty = 0.3f;
  }
  if (random() % 4 == 0) request.sampling.top_k = 5;
  if (random() % 4 == 0) request.sampling.min_p = 0.05f;
  if (random() % 4 == 0) request.sampling.frequency_penalty = 0.2f;
  if (random() % 4 == 0) request.sampling.logit_bias = {{3, 4.0f}, {9, -100.0f}};
  if (random() % 2 == 0) request.stop = {"the", "kk", "a\n"};
  if (random() % 3 == 0) request.ignore_eos = true;
  if (random() % 3 == 0) request.top_logprobs = 2;
  if (random() % 5 == 0) request.prompt_logprobs = true;
  return request;
}

inline void check_answer(const Receiver& got, const Request& request, int64_t context, float copies = 0) {
  const Expected expected = expect(request, context, copies);
  ASSERT_TRUE(got.finish) << (got.error ? got.error->message : "");
  EXPECT_EQ(got.text, expected.text);
  EXPECT_EQ(got.finish->reason, expected.reason);
  EXPECT_EQ(got.finish->stop, expected.stop);
  EXPECT_EQ(got.finish->prompt_tokens, static_cast<int32_t>(request.prompt.size()));
  if (expected.reason != FinishReason::stop) {
    EXPECT_EQ(got.finish->completion_tokens, static_cast<int32_t>(expected.tokens.size()));
    if (request.top_logprobs >= 0) {
      ASSERT_EQ(got.tokens.size(), expected.tokens.size());
      for (size_t i = 0; i < got.tokens.size(); ++i) EXPECT_EQ(got.tokens[i].token, expected.tokens[i]);
    }
  }
  EXPECT_EQ(got.prompt_infos, request.prompt_logprobs ? 1 : 0);
  for (size_t i = 0; i < got.prompt.size(); ++i) {
    EXPECT_EQ(got.prompt[i].token, request.prompt[i]);
    EXPECT_EQ(got.prompt[i].has_logprob, i > 0);
    if (i > 0) {
      std::vector<float> logits(kVocab);
      FakeModel::logits_after(std::span(request.prompt).first(i), copies, logits);
      EXPECT_EQ(got.prompt[i].logprob, logprobs_of(logits, request.prompt[i], 0).logprob);
    }
  }
}

/// `together`: no step runs before all requests are there, so that what happens does not depend on the
/// threads' luck.
inline void run_many(Fixture& fixture, int requests, int threads, bool together) {
  std::vector<Receiver> receivers(static_cast<size_t>(requests));
  std::unique_lock hold(fixture.backend.step_mutex, std::defer_lock);
  if (together) hold.lock();
  std::vector<std::jthread> clients;
  for (int t = 0; t < threads; ++t)
    clients.emplace_back([&, t] {
      for (int i = t; i < requests; i += threads) {
        const auto ticket = fixture.engine->submit(random_request(static_cast<uint32_t>(i)),
                                                   receivers[static_cast<size_t>(i)].sink());
        ASSERT_TRUE(ticket) << ticket.error().message;
      }
    });
  clients.clear();
  if (together) hold.unlock();
  for (int i = 0; i < requests; ++i) {
    Receiver& receiver = receivers[static_cast<size_t>(i)];
    ASSERT_NO_FATAL_FAILURE(receiver.wait());
    SCOPED_TRACE(i);
    check_answer(receiver, random_request(static_cast<uint32_t>(i)), fixture.engine->context(),
                 fixture.copies);
  }
  fixture.expect_idle();
}

}  // namespace quern::testing
