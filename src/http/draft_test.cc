// Guessed tokens through HTTP: clients get the same bytes with and without, and the metrics count them.
#include <gtest/gtest.h>

#include "http/test_server.h"

namespace quern::testing {
namespace {

constexpr const char* kProposed = "quern_draft_tokens_total{kind=\"proposed\"}";
constexpr const char* kAccepted = "quern_draft_tokens_total{kind=\"accepted\"}";

/// Without what differs from answer to answer.
Json choices_of(const Reply& reply) {
  EXPECT_EQ(reply.status, 200) << reply.body;
  const Json body = reply.json();
  return {body["choices"], body["usage"]["completion_tokens"]};
}

std::vector<Json> stream_of(const Reply& reply) {
  std::vector<Json> events;
  for (const std::string& event : reply.events())
    if (event != "[DONE]") events.push_back(Json::parse(event)["choices"]);
  return events;
}

TEST(Draft, SameSeedSameTextWithGuessesAndWithout) {
  ServerOptions without;
  without.draft_rows = 0;
  TestServer plain(without), guessing;
  // With few tokens to choose from, a sampled text repeats itself.
  const Json few = {{"40", 100}, {"41", 100}, {"42", 100}};
  std::vector<Json> asks;
  for (int seed = 0; seed < 6; ++seed) {
    Json ask = {{"prompt", "the cat and the dog and the cat"},
                {"seed", seed},
                {"max_tokens", 120},
                {"temperature", 0.9},
                {"n", 1 + seed % 3},
                {"logprobs", seed % 4},
                {"ignore_eos", true},
                {"logit_bias", few}};
    if (seed % 2 == 1) ask["frequency_penalty"] = 0.01;
    if (seed == 4) ask["stop"] = {"bcbc", "aaa"};
    if (seed == 5) ask["temperature"] = 0;
    asks.push_back(ask);
  }
  for (Json ask : asks) {
    SCOPED_TRACE(ask.dump());
    EXPECT_EQ(choices_of(guessing.post("/v1/completions", ask)),
              choices_of(plain.post("/v1/completions", ask)));
    if (ask["n"] != 1) continue;  // chunks of several answers come in any order
    ask["stream"] = true;
    EXPECT_EQ(stream_of(guessing.post("/v1/completions", ask)),
              stream_of(plain.post("/v1/completions", ask)));
  }
  EXPECT_EQ(plain.metric(kProposed), 0);
  EXPECT_GT(guessing.metric(kProposed), guessing.metric(kAccepted));
  EXPECT_GT(guessing.metric(kAccepted), 100);
}

}  // namespace
}  // namespace quern::testing
