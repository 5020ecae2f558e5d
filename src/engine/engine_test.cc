#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

#include "engine/engine_fixture.h"

namespace quern {
namespace {

using namespace std::chrono_literals;
using testing::check_answer;
using testing::FakeBackend;
using testing::FakeModel;
using testing::FakeTokenizer;
using testing::Fixture;
using testing::greedy;
using testing::kVocab;
using testing::random_request;
using testing::Receiver;
using testing::run_many;
using testing::some_prompt;

TEST(Engine, AnswersAmongOthersAreThoseOfTheRequestAlone) {
  Fixture fixture({.max_running = 8, .max_queued = 1000, .block_size = 8, .chunk_rows = 24});
  run_many(fixture, 120, 6, false);
  EXPECT_GT(fixture.engine->stats().cached_tokens, 100u);
  // Some rows were sampled from their best, others whole.
  EXPECT_GT(fixture.model->rows_of_best, 100);
  EXPECT_LT(fixture.model->rows_of_best, static_cast<int>(fixture.engine->stats().generated_tokens) - 100);
}

TEST(Engine, AnswersSurviveBeingPutBack) {
  for (const bool caching : {false, true}) {
    // 24 blocks of 8 tokens: one long request's worth for eight.
    Fixture fixture({.max_running = 8,
                     .max_queued = 1000,
                     .kv_bytes = 24 * 8 * sizeof(int32_t),
                     .block_size = 8,
                     .prefix_caching = caching,
                     .chunk_rows = 16},
                    512);
    EXPECT_EQ(fixture.engine->context(), 192);
    run_many(fixture, 120, 6, true);
    EXPECT_GT(fixture.engine->stats().preemptions, 5u);
  }
}

TEST(Engine, APrefixIsReused) {
  Fixture fixture({.block_size = 16});
  Receiver first, second;
  const Request request = greedy(some_prompt(100, 1));
  ASSERT_TRUE(fixture.engine->submit(request, first.sink()));
  first.wait();
  EXPECT_EQ(first.finish->cached_tokens, 0);
  ASSERT_TRUE(fixture.engine->submit(request, second.sink()));
  second.wait();
  EXPECT_EQ(second.finish->cached_tokens, 96);
  EXPECT_EQ(second.text, first.text);
  fixture.expect_idle();
}

TEST(Engine, RefusesAtOnce) {
  Fixture fixture({.block_size = 16}, 64);
  Receiver receiver;
  const auto refused = [&](Request request) {
    const auto ticket = fixture.engine->submit(std::move(request), receiver.sink());
    EXPECT_FALSE(ticket);
    return ticket ? Error{} : ticket.error();
  };
  EXPECT_EQ(refused(greedy({})).code, ErrorCode::invalid_argument);
  const Error too_long = refused(greedy(some_prompt(64, 1)));
  EXPECT_EQ(too_long.code, ErrorCode::invalid_argument);
  EXPECT_NE(too_long.message.find("64 tokens"), std::string::npos) << too_long.message;
  EXPECT_NE(refused(greedy({1, kVocab})).message.find("64"), std::string::npos);
  EXPECT_EQ(refused(greedy({-1})).code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused(greedy({1}, -1)).code, ErrorCode::invalid_argument);
  EXPECT_EQ(receiver.events(), 0);
  fixture.expect_idle();
}

TEST(Engine, TheContextEndsAnAnswer) {
  Fixture fixture({.block_size = 16}, 64);
  Receiver receiver;
  Request request = greedy(some_prompt(60, 1), 1000);
  request.ignore_eos = true;
  ASSERT_TRUE(fixture.engine->submit(request, receiver.sink()));
  receiver.wait();
  EXPECT_EQ(receiver.finish->reason, FinishReason::length);
  EXPECT_EQ(receiver.finish->completion_tokens, 4);
}

TEST(Engine, NoTokensWanted) {
  Fixture fixture({.block_size = 16});
  Receiver plain, echo;
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(50, 1), 0), plain.sink()));
  plain.wait();
  EXPECT_EQ(plain.finish->reason, FinishReason::length);
  EXPECT_EQ(plain.finish->completion_tokens, 0);
  Request request = greedy(some_prompt(200, 1), 0);
  request.prompt_logprobs = true;
  request.top_logprobs = 3;
  ASSERT_TRUE(fixture.engine->submit(request, echo.sink()));
  echo.wait();
  check_answer(echo, request, fixture.engine->context());
  ASSERT_EQ(echo.prompt.size(), 200u);
  EXPECT_EQ(echo.prompt[7].top.size(), 3u);
  fixture.expect_idle();
}

/// Lets a test hold the model before each step.
class Gate {
 public:
  std::function<Result<>(const ForwardBatch&)> hook() {
    return [this](const ForwardBatch&) -> Result<> {
      std::unique_lock lock(mutex_);
      ++arrived_;
      changed_.notify_all();
      changed_.wait(lock, [&] { return permits_ > 0; });
      --permits_;
      return {};
    };
  }
  /// Waits until the n-th step (from 1) is about to run.
  void wait_for_step(int n) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, 60s, [&] { return arrived_ >= n; }));
  }
  void allow(int steps) {
    const std::lock_guard lock(mutex_);
    permits_ += steps;
    changed_.notify_all();
  }
  int steps() {
    const std::lock_guard lock(mutex_);
    return arrived_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0, permits_ = 0;
};

TEST(Engine, ACancelledPromptIsNotContinued) {
  Gate gate;
  Fixture fixture({.block_size = 16, .chunk_rows = 10}, 512, nullptr, gate.hook());
  Receiver cancelled, other;
  const auto ticket = fixture.engine->submit(greedy(some_prompt(400, 1)), cancelled.sink());
  gate.wait_for_step(1);
  fixture.engine->cancel(*ticket);
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 2), 3), other.sink()));
  gate.allow(1000);
  other.wait();
  EXPECT_LE(gate.steps(), 5) << "one chunk of the cancelled, then the other alone";
  EXPECT_EQ(cancelled.events(), 0);
  fixture.expect_idle();
  fixture.engine->cancel(*ticket);
  fixture.engine->cancel(12345);
}

TEST(Engine, ALongPromptDoesNotStallOthers) {
  std::atomic<int> steps = 0, quick_steps = 0;
  Fixture fixture({.block_size = 16, .chunk_rows = 10}, 4096, nullptr, [&](const ForwardBatch&) -> Result<> {
    ++steps;
    return {};
  });
  Receiver slow, quick;
  Request request = greedy(some_prompt(4, 2), 20);
  request.ignore_eos = true;
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(3000, 1), 2), slow.sink()));
  ASSERT_TRUE(
      fixture.engine->submit(request, [&, submitted = steps.load(), sink = quick.sink()](Event event) {
        quick_steps = steps - submitted;
        sink(std::move(event));
      }));
  quick.wait();
  slow.wait();
  EXPECT_GE(steps, 300);
  EXPECT_LE(quick_steps, 25);
}

TEST(Engine, RefusesWhileTheDeviceIsUnderPressure) {
  Fixture fixture({.block_size = 16, .device_threshold = 95});
  Receiver first, second, third;
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 1), 4), first.sink()));
  fixture.backend.device = {.total = 1000, .free = 49};
  const auto refused = fixture.engine->submit(greedy(some_prompt(5, 2), 4), second.sink());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unavailable);
  EXPECT_NE(refused.error().message.find("95.1 %"), std::string::npos) << refused.error().message;
  fixture.backend.device = {.total = 1000, .free = 50};
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 3), 4), third.sink()));
  first.wait();
  third.wait();
  EXPECT_FALSE(second.ended);
}

TEST(Engine, TheQueueIsBoundedInLengthAndTime) {
  Gate gate;
  Fixture fixture({.max_running = 1, .max_queued = 1, .queue_timeout = 50ms, .block_size = 16}, 512, nullptr,
                  gate.hook());
  Receiver running, waiting, refused;
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 1), 4), running.sink()));
  gate.wait_for_step(1);
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 2), 4), waiting.sink()));
  const auto full = fixture.engine->submit(greedy(some_prompt(5, 3), 4), refused.sink());
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::unavailable);
  EXPECT_EQ(fixture.engine->stats().running, 1);
  EXPECT_EQ(fixture.engine->stats().waiting, 1);
  std::this_thread::sleep_for(80ms);
  gate.allow(1000);
  waiting.wait();
  ASSERT_TRUE(waiting.error);
  EXPECT_EQ(waiting.error->code, ErrorCode::unavailable);
  EXPECT_NE(waiting.error->message.find("50 ms"), std::string::npos);
  running.wait();
  EXPECT_TRUE(running.finish);
  EXPECT_EQ(refused.events(), 0);
}

TEST(Engine, StoppingLetsRequestsFinishWithinTheGrace) {
  Fixture fixture({.block_size = 16});
  Receiver running, late;
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 1), 100), running.sink()));
  fixture.engine->stop(1h);
  EXPECT_TRUE(running.finish) << "all events were delivered when stop returned";
  const auto refused = fixture.engine->submit(greedy(some_prompt(5, 1)), late.sink());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unavailable);
  fixture.engine->stop(0ms);
}

TEST(Engine, StoppingEndsWhatTakesLonger) {
  Fixture fixture({.max_running = 1, .block_size = 16}, 1 << 20, nullptr,
                  [](const ForwardBatch&) -> Result<> {
                    std::this_thread::sleep_for(1ms);
                    return {};
                  });
  Receiver running, waiting;
  Request endless = greedy(some_prompt(5, 1), 1 << 19);
  endless.ignore_eos = true;
  ASSERT_TRUE(fixture.engine->submit(endless, running.sink()));
  ASSERT_TRUE(fixture.engine->submit(endless, waiting.sink()));
  running.wait_for_text();
  std::jthread also([&] { fixture.engine->stop(1h); });
  fixture.engine->stop(20ms);
  ASSERT_TRUE(running.error);
  EXPECT_EQ(running.error->code, ErrorCode::unavailable);
  EXPECT_TRUE(waiting.error);
  fixture.expect_idle();
}

TEST(Engine, DestructionEndsEverything) {
  std::vector<Receiver> receivers(20);
  {
    Fixture fixture({.max_running = 4, .block_size = 16}, 1 << 16);
    Request endless = greedy(some_prompt(5, 1), 1 << 15);
    endless.ignore_eos = true;
    for (Receiver& receiver : receivers) ASSERT_TRUE(fixture.engine->submit(endless, receiver.sink()));
    receivers[0].wait_for_text();
  }
  for (const Receiver& receiver : receivers) EXPECT_TRUE(receiver.error);
}

TEST(Engine, AThrowingReceiverHarmsOnlyItself) {
  Fixture fixture({.block_size = 16});
  Receiver other;
  std::atomic<int> calls = 0;
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 1), 100), [&](const Event&) {
    ++calls;
    throw std::runtime_error("no more");
  }));
  const Request request = greedy(some_prompt(6, 2), 100);
  ASSERT_TRUE(fixture.engine->submit(request, other.sink()));
  other.wait();
  check_answer(other, request, fixture.engine->context());
  fixture.engine->stop(1h);
  EXPECT_EQ(calls, 1);
  fixture.expect_idle();
}

TEST(Engine, AFailedStepEndsItsRequestsAndTheEngineGoesOn) {
  for (const bool throws : {false, true}) {
    std::atomic<bool> broken = true;
    Fixture fixture({.block_size = 16}, 512, nullptr, [&](const ForwardBatch&) -> Result<> {
      if (!broken) return {};
      if (throws) throw std::bad_alloc();
      return fail(ErrorCode::resource_exhausted, "no memory");
    });
    Receiver first, second;
    ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 1)), first.sink()));
    first.wait();
    ASSERT_TRUE(first.error);
    fixture.expect_idle();
    broken = false;
    const Request request = greedy(some_prompt(5, 1));
    ASSERT_TRUE(fixture.engine->submit(request, second.sink()));
    second.wait();
    check_answer(second, request, fixture.engine->context());
  }
}

TEST(Engine, ObserversAndCountersSeeEveryRequest) {
  struct Observer : EngineObserver {
    std::atomic<int> firsts = 0, outputs = 0, queues = 0, ends = 0;
    void first_token(double seconds) override { firsts += seconds >= 0; }
    void output_token(double seconds) override { outputs += seconds >= 0; }
    void queued(double seconds) override { queues += seconds >= 0; }
    void finished(double seconds, FinishReason) override { ends += seconds >= 0; }
  } observer;
  Fixture fixture({.block_size = 16}, 512, &observer);
  Receiver receiver;
  Request request = greedy(some_prompt(20, 1), 10);
  request.ignore_eos = true;
  ASSERT_TRUE(fixture.engine->submit(request, receiver.sink()));
  receiver.wait();
  EXPECT_EQ(observer.firsts, 1);
  EXPECT_EQ(observer.outputs, 9);
  EXPECT_EQ(observer.queues, 1);
  EXPECT_EQ(observer.ends, 1);
  const EngineStats stats = fixture.engine->stats();
  EXPECT_EQ(stats.prompt_tokens, 20u);
  EXPECT_EQ(stats.generated_tokens, 10u);
  EXPECT_EQ(stats.steps, 10u);
}

TEST(Engine, ObserversSeeFailuresToo) {
  struct Observer : EngineObserver {
    std::atomic<int> queues = 0, failures = 0, ends = 0;
    void queued(double seconds) override { queues += seconds >= 0; }
    void failed(double seconds) override { failures += seconds >= 0; }
    void finished(double, FinishReason) override { ++ends; }
  } observer;
  Gate gate;
  std::atomic<bool> broken = false;
  Fixture fixture({.max_running = 1, .queue_timeout = 50ms, .block_size = 16}, 512, &observer,
                  [&, hook = gate.hook()](const ForwardBatch& batch) -> Result<> {
                    QUERN_TRY_VOID(hook(batch));
                    if (broken) return fail(ErrorCode::resource_exhausted, "no memory");
                    return {};
                  });
  Receiver failing, late, stopped;
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 1), 4), failing.sink()));
  gate.wait_for_step(1);
  ASSERT_TRUE(fixture.engine->submit(greedy(some_prompt(5, 2), 4), late.sink()));
  std::this_thread::sleep_for(80ms);
  broken = true;
  gate.allow(1);
  failing.wait();
  late.wait();
  EXPECT_EQ(observer.failures, 2) << "a step that failed, and a wait that was too long";
  EXPECT_EQ(observer.queues, 2);
  Request endless = greedy(some_prompt(5, 3), 400);
  endless.ignore_eos = true;
  ASSERT_TRUE(fixture.engine->submit(endless, stopped.sink()));
  gate.wait_for_step(2);
  broken = false;
  std::jthread stop([&] { fixture.engine->stop(0ms); });
  while (fixture.engine->submit(greedy({}, 4), [](const Event&) {}).error().code != ErrorCode::unavailable)
    std::this_thread::sleep_for(1ms);
  gate.allow(1000);
  stopped.wait();
  EXPECT_TRUE(stopped.error);
  EXPECT_EQ(observer.failures, 3);
  EXPECT_EQ(observer.queues, 3);
  EXPECT_EQ(observer.ends, 0);
}

TEST(Engine, RefusesOptionsAndMemoryThatCannotWork) {
  const auto create = [](const EngineOptions& options) {
    FakeBackend backend;
    return Engine::create(backend, std::make_unique<FakeModel>(kVocab, 512),
                          std::make_shared<FakeTokenizer>(kVocab), options);
  };
  EXPECT_EQ(create({.max_running = 0}).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(create({.block_size = 0}).error().code, ErrorCode::invalid_argument);
  const auto tight = create({.kv_bytes = 10});
  ASSERT_FALSE(tight);
  EXPECT_EQ(tight.error().code, ErrorCode::resource_exhausted);
  EXPECT_NE(tight.error().message.find("10 bytes"), std::string::npos);
}

// Many clients that come, leave early and stay, for a while; every finished answer must be the right one.
TEST(Engine, RandomAbortsLeaveNothingBehind) {
  Fixture fixture({.max_running = 6,
                   .max_queued = 30,
                   .kv_bytes = 60 * 8 * sizeof(int32_t),
                   .block_size = 8,
                   .chunk_rows = 16},
                  300);
  std::atomic<int> finished = 0, refused = 0;
  std::vector<std::jthread> clients;
  for (uint32_t t = 0; t < 8; ++t)
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      for (uint32_t i = 0; i < 60; ++i) {
        const Request request = random_request(t * 1000 + i);
        auto receiver = std::make_shared<Receiver>();
        const auto ticket = fixture.engine->submit(
            request, [receiver, sink = receiver->sink()](Event e) { sink(std::move(e)); });
        if (!ticket) {
          EXPECT_EQ(ticket.error().code, ErrorCode::unavailable);
          ++refused;
          continue;
        }
        if (random() % 3 == 0) {
          std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
          fixture.engine->cancel(*ticket);
          continue;
        }
        ASSERT_NO_FATAL_FAILURE(receiver->wait());
        check_answer(*receiver, request, fixture.engine->context());
        ++finished;
      }
    });
  clients.clear();
  fixture.engine->stop(1h);
  EXPECT_GT(finished, 100);
  fixture.expect_idle();
}

}  // namespace
}  // namespace quern
