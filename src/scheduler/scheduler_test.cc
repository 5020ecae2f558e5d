#include "scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>

namespace quern {
namespace {

std::vector<int32_t> prompt_of(int64_t length, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::map<uint64_t, int64_t> rows(const Plan& plan) {
  std::map<uint64_t, int64_t> result;
  for (const PlannedSlice& slice : plan.slices) result[slice.id] += static_cast<int64_t>(slice.tokens.size());
  return result;
}

/// Commits and gives every sequence that asks for one the token `token`, over and over.
void finish_step(Scheduler& scheduler, const Plan& plan, int32_t token = 1) {
  scheduler.commit(plan);
  for (const PlannedSlice& slice : plan.slices) {
    if (!slice.samples) continue;
    const auto guesses = slice.tokens.last(static_cast<size_t>(slice.drafted));
    const auto wrong = std::ranges::find_if(guesses, [&](int32_t guess) { return guess != token; });
    const std::vector<int32_t> tokens(static_cast<size_t>(wrong - guesses.begin()) + 1, token);
    scheduler.append(slice.id, tokens);
  }
}

TEST(Scheduler, RefusesWhatCanNeverRunAndWhatIsTooMuch) {
  Scheduler scheduler({.max_running = 1, .max_queued = 1, .context = 64}, 4, 16, true);
  EXPECT_EQ(scheduler.submit(1, {}, {}, 0).error().code, ErrorCode::invalid_argument);
  const auto long_prompt = scheduler.submit(1, prompt_of(64), {}, 0);
  EXPECT_EQ(long_prompt.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(long_prompt.error().message.find("64 tokens"), std::string::npos);
  EXPECT_TRUE(scheduler.submit(1, prompt_of(63), {}, 0));
  EXPECT_TRUE(scheduler.submit(2, prompt_of(3), {}, 0));
  EXPECT_EQ(scheduler.submit(3, prompt_of(3), {}, 0).error().code, ErrorCode::unavailable);
  scheduler.remove(2);
  EXPECT_TRUE(scheduler.submit(3, prompt_of(3), {}, 0));
}

TEST(Scheduler, ALongPromptRunsInChunksBesideDecodes) {
  Scheduler scheduler({.max_running = 4, .context = 1000, .chunk_rows = 100}, 100, 16, true);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(10, 5000), {}, 0));
  finish_step(scheduler, scheduler.plan(0));
  ASSERT_TRUE(scheduler.submit(2, prompt_of(250), {}, 0));
  for (const int64_t expected : {100, 100, 50}) {
    const Plan plan = scheduler.plan(0);
    ASSERT_EQ(plan.slices.size(), 2u);
    EXPECT_EQ(plan.slices[0].id, 1u) << "decodes first";
    EXPECT_TRUE(plan.slices[0].samples);
    EXPECT_EQ(plan.slices[1].tokens.size(), static_cast<size_t>(expected));
    EXPECT_EQ(plan.slices[1].samples, expected == 50);
    finish_step(scheduler, plan);
  }
}

TEST(Scheduler, BesideDecodesAChunkTakesABoundedTime) {
  Scheduler scheduler({.max_running = 4, .context = 10000, .chunk_rows = 200, .step_seconds = 0.5}, 1000, 16,
                      true);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(5000), {}, 0));
  scheduler.measured(200, 2.0);
  EXPECT_EQ(rows(scheduler.plan(0)).at(1), 200) << "nobody waits";
  scheduler.remove(1);
  ASSERT_TRUE(scheduler.submit(2, prompt_of(3, 9000), {}, 0));
  finish_step(scheduler, scheduler.plan(0));
  ASSERT_TRUE(scheduler.submit(3, prompt_of(5000), {}, 0));
  EXPECT_EQ(rows(scheduler.plan(0)).at(3), 50);
  scheduler.measured(1, 100.0);
  EXPECT_EQ(rows(scheduler.plan(0)).at(3), 50) << "a step of few rows says nothing of many";
  for (int i = 0; i < 40; ++i) scheduler.measured(50, 50.0);
  EXPECT_EQ(rows(scheduler.plan(0)).at(3), 32) << "not fewer than pay";
  for (int i = 0; i < 40; ++i) scheduler.measured(50, 0.0001);
  EXPECT_EQ(rows(scheduler.plan(0)).at(3), 200);
}

TEST(Scheduler, PromptsShareAChunkAndTheOldestGetsTheRest) {
  Scheduler scheduler({.max_running = 4, .context = 1000, .chunk_rows = 100}, 100, 16, true);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(300), {}, 0));
  ASSERT_TRUE(scheduler.submit(2, prompt_of(20, 1000), {}, 0));
  ASSERT_TRUE(scheduler.submit(3, prompt_of(300, 2000), {}, 0));
  const Plan plan = scheduler.plan(0);
  EXPECT_EQ(plan.admitted, (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(rows(plan), (std::map<uint64_t, int64_t>{{1, 47}, {2, 20}, {3, 33}}));
}

TEST(Scheduler, PromptsWhoseLogitsAreWantedRunInFewerRows) {
  Scheduler scheduler({.max_running = 4, .context = 1000, .chunk_rows = 100, .logit_rows = 8}, 100, 16, true);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(30), {.all_logits = true}, 0));
  ASSERT_TRUE(scheduler.submit(2, prompt_of(30, 1000), {.all_logits = true}, 0));
  ASSERT_TRUE(scheduler.submit(3, prompt_of(90, 2000), {}, 0));
  const auto planned = rows(scheduler.plan(0));
  EXPECT_EQ(planned.at(1), 8);
  EXPECT_FALSE(planned.contains(2));
  EXPECT_EQ(planned.at(3), 90);
}

TEST(Scheduler, TheSecondOfTwoEqualPromptsWaitsForTheFirstsBlocks) {
  Scheduler scheduler({.max_running = 4, .context = 1000, .chunk_rows = 64}, 100, 16, true);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(100), {}, 0));
  ASSERT_TRUE(scheduler.submit(2, prompt_of(100), {}, 0));
  int64_t computed = 0, cached = 0;
  for (int step = 0; step < 4; ++step) {
    const Plan plan = scheduler.plan(0);
    for (const PlannedSlice& slice : plan.slices)
      if (slice.id == 2) computed += static_cast<int64_t>(slice.tokens.size()), cached = slice.cached;
    finish_step(scheduler, plan);
    if (scheduler.tokens(2).size() > 100) break;
  }
  EXPECT_EQ(scheduler.tokens(2).size(), 101u);
  EXPECT_EQ(computed, 4) << "all but the last, incomplete block came from the first";
  EXPECT_EQ(cached, 96);
}

TEST(Scheduler, AFollowerGoesOnAloneWhenTheFirstIsCancelled) {
  Scheduler scheduler({.max_running = 4, .context = 1000, .chunk_rows = 8}, 100, 16, true);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(40), {}, 0));
  ASSERT_TRUE(scheduler.submit(2, prompt_of(40), {}, 0));
  finish_step(scheduler, scheduler.plan(0));
  scheduler.remove(1);
  for (int step = 0; step < 5; ++step) {
    const Plan plan = scheduler.plan(0);
    ASSERT_EQ(plan.slices.size(), 1u);
    EXPECT_EQ(plan.slices[0].tokens.size(), 8u);
    finish_step(scheduler, plan);
  }
  EXPECT_EQ(scheduler.tokens(2).size(), 41u);
}

TEST(Scheduler, WaitingTooLongExpires) {
  Scheduler scheduler({.max_running = 1, .max_queued = 5, .queue_timeout = 2, .context = 64}, 4, 16, true);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(3), {}, 0));
  finish_step(scheduler, scheduler.plan(0));
  ASSERT_TRUE(scheduler.submit(2, prompt_of(3), {}, 1));
  EXPECT_TRUE(scheduler.plan(3).expired.empty());
  EXPECT_EQ(scheduler.plan(3.5).expired, (std::vector<uint64_t>{2}));
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(scheduler.running(), 1);
}

TEST(Scheduler, AnAnswerThatHasBegunDoesNotExpire) {
  Scheduler scheduler({.max_running = 1, .max_queued = 5, .queue_timeout = 2, .context = 64}, 4, 16, true);
  const auto one = std::make_shared<bool>(false), other = std::make_shared<bool>(false);
  ASSERT_TRUE(scheduler.submit(1, prompt_of(3), {.begun = one}, 0));
  ASSERT_TRUE(scheduler.submit(2, prompt_of(3), {.begun = one}, 0));
  ASSERT_TRUE(scheduler.submit(3, prompt_of(3), {.begun = other}, 0));
  ASSERT_TRUE(scheduler.submit(4, prompt_of(3), {.begun = other}, 0));
  finish_step(scheduler, scheduler.plan(0));
  ASSERT_TRUE(scheduler.submit(5, prompt_of(3), {.begun = one}, 0));
  EXPECT_EQ(scheduler.plan(3).expired, (std::vector<uint64_t>{3, 4})) << "none of these has begun";
  scheduler.remove(1);
  EXPECT_EQ(scheduler.plan(100).admitted, (std::vector<uint64_t>{2}));
  scheduler.remove(2);
  EXPECT_EQ(scheduler.plan(200).admitted, (std::vector<uint64_t>{5}));
}

TEST(Scheduler, TheYoungestIsPutBackAndContinuedFirst) {
  // Three sequences of two blocks each fill the cache; the next block of the first must come from the third.
  Scheduler scheduler({.max_running = 3, .max_queued = 5, .context = 64, .draft_rows = 0}, 9, 8, false);
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(scheduler.submit(id, prompt_of(16), {}, 0));
  std::vector<uint64_t> put_back;
  for (int step = 0; step < 12 && put_back.empty(); ++step) {
    const Plan plan = scheduler.plan(0);
    put_back = plan.put_back;
    finish_step(scheduler, plan);
  }
  ASSERT_EQ(put_back, (std::vector<uint64_t>{3}));
  ASSERT_TRUE(scheduler.submit(4, prompt_of(1), {}, 0));
  const size_t length = scheduler.tokens(3).size();
  EXPECT_GT(length, 16u) << "keeps what it has answered";
  Plan plan = scheduler.plan(100000);
  EXPECT_TRUE(plan.admitted.empty()) << "the new one waits, though it would fit";
  finish_step(scheduler, plan);
  scheduler.remove(1);
  plan = scheduler.plan(100001);
  const auto planned = rows(plan);
  ASSERT_TRUE(planned.contains(3));
  EXPECT_EQ(planned.at(3), static_cast<int64_t>(length));
}

// ---- Random arrivals, ends and cancels, checked against a plain model of the KV memory.

struct Simulation {
  int64_t block_count, block_size;
  SchedulerOptions options;
  Scheduler scheduler;
  std::mt19937 random;
  std::vector<std::vector<int32_t>> memory;  // what each slot of each block holds
  struct Expected {
    std::vector<int32_t> tokens;  // prompt and answer
    size_t end = 0;               // length at which it ends
    bool started = false;
    double arrived = 0;
  };
  std::map<uint64_t, Expected> live;
  uint64_t next_id = 1, last_started = 0;
  int64_t put_backs = 0, finished = 0, expired = 0, refused = 0, cached = 0, accepted = 0;
  double now = 0;

  Simulation(uint32_t seed, bool caching)
      : block_count(8 + static_cast<int64_t>(seed % 5) * 7),
        block_size(1 + static_cast<int64_t>(seed % 7)),
        options{.max_running = 1 + static_cast<int>(seed % 6),
                .max_queued = 1 + static_cast<int>(seed % 9),
                .queue_timeout = 40,
                .context = block_count * block_size,
                .chunk_rows = 1 + static_cast<int64_t>(seed % 11),
                .logit_rows = 1 + static_cast<int64_t>(seed % 4),
                .draft_rows = static_cast<int64_t>(seed % 3) * 4,
                .draft_cost = 0.01},
        scheduler(options, block_count, block_size, caching),
        random(seed),
        memory(static_cast<size_t>(block_count), std::vector<int32_t>(static_cast<size_t>(block_size), -1)) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); }

  void arrive() {
    const int64_t length = 1 + below(options.context - 1);
    std::vector<int32_t> prompt;
    for (int64_t i = 0; i < length; ++i) prompt.push_back(static_cast<int32_t>(below(2)));
    const uint64_t id = next_id++;
    const bool full = static_cast<int>(live.size()) >= options.max_running + options.max_queued;
    const size_t end = std::min<size_t>(prompt.size() + 1 + static_cast<size_t>(below(12)),
                                        static_cast<size_t>(options.context));
    const auto answer = scheduler.submit(
        id, prompt, {.all_logits = below(5) == 0, .longest = static_cast<int64_t>(end) + 1}, now);
    ASSERT_EQ(answer.has_value(), !full);
    if (full) {
      ++refused;
      return;
    }
    live[id] = {prompt, end, false, now};
  }

  void leave(uint64_t id) {
    scheduler.remove(id);
    live.erase(id);
  }

  void check_plan(const Plan& plan) {
    std::set<uint64_t> seen;
    int64_t prompt_rows = 0, all_rows = 0, drafted = 0;
    for (const uint64_t id : plan.expired) {
      ASSERT_GT(now - live.at(id).arrived, options.queue_timeout);
      ASSERT_FALSE(live.at(id).started);
      live.erase(id);
      ++expired;
    }
    for (const uint64_t id : plan.admitted) {
      ASSERT_GT(id, last_started) << "first come, first served";
      last_started = id;
      live.at(id).started = true;
    }
    put_backs += static_cast<int64_t>(plan.put_back.size());
    for (const PlannedSlice& slice : plan.slices) {
      ASSERT_TRUE(seen.insert(slice.id).second);
      const Expected& expected = live.at(slice.id);
      ASSERT_FALSE(slice.tokens.empty());
      ASSERT_TRUE(expected.started);
      const auto guesses = static_cast<size_t>(slice.drafted);
      const size_t rows = slice.tokens.size() - guesses, end = static_cast<size_t>(slice.start) + rows;
      ASSERT_LE(end, expected.tokens.size());
      ASSERT_EQ(slice.samples, end == expected.tokens.size());
      if (slice.samples) cached += slice.cached;
      ASSERT_TRUE(std::equal(slice.tokens.begin(), slice.tokens.end() - slice.drafted,
                             expected.tokens.begin() + slice.start));
      if (rows > 1) prompt_rows += static_cast<int64_t>(rows);
      all_rows += static_cast<int64_t>(slice.tokens.size());
      drafted += slice.drafted;
      if (guesses > 0) {
        ASSERT_EQ(rows, 1u);
        ASSERT_TRUE(slice.samples);
        ASSERT_LE(end + guesses, expected.end) << "a guess that nobody could use";
        ASSERT_LT(static_cast<int64_t>(end + guesses), options.context);
      }
    }
    ASSERT_LE(prompt_rows, options.chunk_rows);
    ASSERT_LE(drafted, options.draft_rows);
    ASSERT_LE(all_rows, options.max_running + options.chunk_rows);
    ASSERT_LE(scheduler.running(), options.max_running);
    ASSERT_EQ(scheduler.running() + scheduler.waiting(), static_cast<int>(live.size()));
    ASSERT_EQ(plan.slices.empty(), live.empty()) << "always progress";
  }

  // Writes the rows, then reads each sequence through its blocks, as attention does.
  void forward(const Plan& plan) {
    const auto slot = [&](const PlannedSlice& slice, int64_t p) -> int32_t& {
      return memory[static_cast<size_t>(slice.blocks[static_cast<size_t>(p / block_size)])]
                   [static_cast<size_t>(p % block_size)];
    };
    for (const PlannedSlice& slice : plan.slices)
      for (size_t i = 0; i < slice.tokens.size(); ++i)
        slot(slice, slice.start + static_cast<int64_t>(i)) = slice.tokens[i];
    for (const PlannedSlice& slice : plan.slices) {
      const Expected& expected = live.at(slice.id);
      for (int64_t p = 0; p < slice.start + static_cast<int64_t>(slice.tokens.size()); ++p)
        ASSERT_EQ(slot(slice, p), p < slice.start ? expected.tokens[static_cast<size_t>(p)]
                                                  : slice.tokens[static_cast<size_t>(p - slice.start)])
            << "a block was shared wrongly";
    }
  }

  /// Samples as an engine does: on after each guess that comes true, to the sequence's end.
  template <class Next>
  void finish(const Plan& plan, const Next& next) {
    scheduler.commit(plan);
    for (const PlannedSlice& slice : plan.slices) {
      if (!slice.samples) continue;
      Expected& expected = live.at(slice.id);
      const std::span<const int32_t> guesses = slice.tokens.last(static_cast<size_t>(slice.drafted));
      std::vector<int32_t> tokens;
      bool ended = false;
      for (size_t i = 0; i <= guesses.size(); ++i) {
        ended = expected.tokens.size() == expected.end;
        if (ended) break;
        tokens.push_back(next());
        expected.tokens.push_back(tokens.back());
        if (i < guesses.size() && tokens.back() != guesses[i]) break;
        accepted += i < guesses.size() ? 1 : 0;
      }
      if (!tokens.empty()) scheduler.append(slice.id, tokens);
      ASSERT_TRUE(std::ranges::equal(scheduler.tokens(slice.id), expected.tokens));
      if (!ended) continue;
      ++finished;
      leave(slice.id);
    }
  }

  void step() {
    now += 0.25;
    while (below(3) == 0 && !::testing::Test::HasFatalFailure()) arrive();
    if (!live.empty() && below(20) == 0)
      leave(std::next(live.begin(), below(static_cast<int64_t>(live.size())))->first);
    const Plan plan = scheduler.plan(now);
    ASSERT_NO_FATAL_FAILURE(check_plan(plan));
    ASSERT_NO_FATAL_FAILURE(forward(plan));
    finish(plan, [&] { return static_cast<int32_t>(below(2)); });
    if (live.empty()) {
      ASSERT_EQ(scheduler.blocks().free(), block_count);
    }
  }
};

class SchedulerProperty : public ::testing::TestWithParam<bool> {};

TEST_P(SchedulerProperty, NothingIsLostMixedUpOrStuck) {
  int64_t put_backs = 0, finished = 0, expired = 0, refused = 0, cached = 0, accepted = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    Simulation simulation(seed, GetParam());
    for (int step = 0; step < 400; ++step) {
      simulation.step();
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed << " step " << step;
    }
    // Without new arrivals, everything ends, and every block comes back.
    for (int step = 0; !simulation.live.empty(); ++step) {
      ASSERT_LT(step, 100000) << "seed " << seed;
      const Plan plan = simulation.scheduler.plan(simulation.now);
      simulation.check_plan(plan);
      simulation.forward(plan);
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
      simulation.finish(plan, [] { return 1; });
      ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
    }
    EXPECT_EQ(simulation.scheduler.drafts().accepted, static_cast<uint64_t>(simulation.accepted));
    EXPECT_EQ(simulation.scheduler.blocks().free(), simulation.block_count);
    EXPECT_TRUE(simulation.scheduler.idle());
    put_backs += simulation.put_backs;
    finished += simulation.finished;
    expired += simulation.expired;
    refused += simulation.refused;
    cached += simulation.cached;
    accepted += simulation.accepted;
  }
  // The simulation reaches what it is meant to test.
  EXPECT_GT(put_backs, 100);
  EXPECT_GT(finished, 1000);
  EXPECT_GT(expired, 10);
  EXPECT_GT(refused, 100);
  EXPECT_GT(accepted, 1000);
  EXPECT_EQ(cached > 1000, GetParam());
}

INSTANTIATE_TEST_SUITE_P(PrefixCaching, SchedulerProperty, ::testing::Bool());

}  // namespace
}  // namespace quern
