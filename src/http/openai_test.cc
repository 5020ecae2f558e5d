// /v1/…: what OpenAI's clients depend on.
#include <gtest/gtest.h>

#include <set>

#include "http/test_server.h"

namespace quern::testing {
namespace {

const Json kMessages = {{{"role", "user"}, {"content", "tell me a tale"}}};

Json with(Json base, const Json& more) {
  base.update(more);
  return base;
}
Json chat(const Json& more = Json::object()) {
  return with({{"messages", kMessages}, {"temperature", 0}, {"max_tokens", 16}, {"ignore_eos", true}}, more);
}
Json completion(const Json& more = Json::object()) {
  return with({{"prompt", "once upon"}, {"temperature", 0}, {"max_tokens", 16}, {"ignore_eos", true}}, more);
}
std::vector<Json> chunks(const Reply& reply) {
  std::vector<Json> list;
  const auto events = reply.events();
  EXPECT_FALSE(events.empty()) << reply.status << reply.body;
  if (events.empty()) return list;
  EXPECT_EQ(events.back(), "[DONE]");
  for (size_t i = 0; i + 1 < events.size(); ++i) list.push_back(Json::parse(events[i], nullptr, false));
  return list;
}

TEST(OpenAi, ModelsAreListedAndFoundByAnySpelling) {
  TestServer server;
  const Json list = server.get("/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][0]["id"], tiny_model("chat"));
  EXPECT_EQ(list["data"][0]["object"], "model");
  std::string escaped;
  for (const char c : tiny_model("base")) escaped += c == '/' ? "%2F" : std::string(1, c);
  EXPECT_EQ(server.get("/v1/models/" + tiny_model("base")).json()["id"], tiny_model("base"));
  EXPECT_EQ(server.get("/v1/models/" + escaped).json()["id"], tiny_model("base"));
  const Reply lost = server.get("/v1/models/no/such");
  EXPECT_EQ(lost.status, 404);
  EXPECT_EQ(lost.json()["error"]["code"], "model_not_found");
}

TEST(OpenAi, AChatAnswerAndItsStream) {
  TestServer server;
  const Json whole = server.post("/v1/chat/completions", chat()).json();
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_TRUE(whole["id"].get<std::string>().starts_with("chatcmpl-"));
  EXPECT_EQ(whole["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["choices"][0]["logprobs"], Json());
  EXPECT_EQ(whole["usage"]["completion_tokens"], 16);
  EXPECT_EQ(whole["usage"]["total_tokens"], whole["usage"]["prompt_tokens"].get<int>() + 16);
  EXPECT_GE(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 0);

  const auto list = chunks(server.post(
      "/v1/chat/completions", chat({{"stream", true}, {"stream_options", {{"include_usage", true}}}})));
  std::string text;
  std::set<std::string> ids;
  int roles = 0, finishes = 0;
  for (const Json& chunk : list) {
    EXPECT_EQ(chunk["object"], "chat.completion.chunk");
    ids.insert(chunk["id"].get<std::string>());
    if (chunk["choices"].empty()) continue;
    EXPECT_EQ(chunk["usage"], Json());
    EXPECT_TRUE(chunk.contains("usage"));
    const Json& choice = chunk["choices"][0];
    text += choice["delta"].value("content", "");
    roles += choice["delta"].contains("role");
    finishes += !choice["finish_reason"].is_null();
  }
  EXPECT_EQ(text, whole["choices"][0]["message"]["content"].get<std::string>());
  EXPECT_EQ(ids.size(), 1u);
  EXPECT_EQ(roles, 1);
  EXPECT_EQ(list[0]["choices"][0]["delta"], Json({{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(finishes, 1);
  EXPECT_EQ(list.back()["choices"], Json::array());
  EXPECT_EQ(list.back()["usage"]["completion_tokens"], 16);
  for (const Json& chunk : chunks(server.post("/v1/chat/completions", chat({{"stream", true}}))))
    EXPECT_FALSE(chunk.contains("usage"));
}

TEST(OpenAi, SeveralAnswersFromOneSeed) {
  TestServer server;
  const Json ask = chat({{"n", 3}, {"seed", 7}, {"temperature", 1.5}, {"top_p", 1}});
  const Json first = server.post("/v1/chat/completions", ask).json(),
             second = server.post("/v1/chat/completions", ask).json();
  std::set<std::string> texts;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(first["choices"][i]["index"], i);
    EXPECT_EQ(first["choices"][i]["message"], second["choices"][i]["message"]);
    texts.insert(first["choices"][i]["message"]["content"].get<std::string>());
  }
  EXPECT_EQ(texts.size(), 3u);
  const Json alone = server.post("/v1/chat/completions", with(ask, {{"n", 1}})).json();
  EXPECT_EQ(alone["choices"][0]["message"], first["choices"][0]["message"]);
  EXPECT_EQ(first["usage"]["completion_tokens"], 48);
  EXPECT_EQ(first["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"]);

  std::map<int, std::string> streamed;
  std::map<int, int> roles, finishes;
  for (const Json& chunk : chunks(server.post("/v1/chat/completions", with(ask, {{"stream", true}})))) {
    const Json& choice = chunk["choices"][0];
    const int index = choice["index"];
    streamed[index] += choice["delta"].value("content", "");
    roles[index] += choice["delta"].contains("role");
    finishes[index] += !choice["finish_reason"].is_null();
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(streamed[i], first["choices"][i]["message"]["content"].get<std::string>());
    EXPECT_EQ(roles[i], 1);
    EXPECT_EQ(finishes[i], 1);
  }
}

TEST(OpenAi, ChatLogprobs) {
  TestServer server;
  const Json choice = server.post("/v1/chat/completions", chat({{"logprobs", true}, {"top_logprobs", 4}}))
                          .json()["choices"][0];
  const Json& content = choice["logprobs"]["content"];
  ASSERT_EQ(content.size(), 16u);
  std::string bytes;
  for (const Json& entry : content) {
    EXPECT_EQ(entry["top_logprobs"].size(), 4u);
    EXPECT_EQ(entry["top_logprobs"][0]["logprob"], entry["logprob"]);
    EXPECT_EQ(entry["top_logprobs"][0]["token"], entry["token"]);
    EXPECT_LE(entry["logprob"], 0);
    for (const Json& byte : entry["bytes"]) bytes += static_cast<char>(byte.get<int>());
  }
  EXPECT_EQ(dump(Json(bytes)), dump(choice["message"]["content"]));
  Json streamed = Json::array();
  for (const Json& chunk : chunks(server.post(
           "/v1/chat/completions", chat({{"logprobs", true}, {"top_logprobs", 4}, {"stream", true}}))))
    if (const Json& some = chunk["choices"][0]["logprobs"]; !some.is_null())
      for (const Json& entry : some["content"]) streamed.push_back(entry);
  EXPECT_EQ(streamed, content);
  const Json bare = server.post("/v1/chat/completions", chat({{"logprobs", true}}))
                        .json()["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(bare[0]["top_logprobs"], Json::array());
}

TEST(OpenAi, CompletionsOfTextAndOfTokens) {
  TestServer server;
  const Json text = server.post("/v1/completions", completion()).json();
  EXPECT_EQ(text["object"], "text_completion");
  EXPECT_TRUE(text["id"].get<std::string>().starts_with("cmpl-"));
  const Json ids = server.post("/tokenize", {{"prompt", "once upon"}}).json()["tokens"];
  const Json tokens = server.post("/v1/completions", completion({{"prompt", ids}})).json();
  EXPECT_EQ(tokens["choices"], text["choices"]);
  EXPECT_EQ(tokens["usage"]["prompt_tokens"], ids.size());
  const Json several =
      server.post("/v1/completions", completion({{"prompt", {"once upon", "a the"}}, {"n", 2}})).json();
  ASSERT_EQ(several["choices"].size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(several["choices"][i]["index"], i);
  EXPECT_EQ(several["choices"][0]["text"], text["choices"][0]["text"]);
  EXPECT_EQ(several["choices"][1]["text"], text["choices"][0]["text"]);
  EXPECT_NE(several["choices"][2]["text"], text["choices"][0]["text"]);
  const Json arrays = server.post("/v1/completions", completion({{"prompt", {ids, ids}}})).json();
  EXPECT_EQ(arrays["choices"][1]["text"], text["choices"][0]["text"]);
  EXPECT_EQ(arrays["usage"]["prompt_tokens"], 2 * ids.size());
  EXPECT_EQ(server.post("/v1/completions", completion({{"prompt", ""}})).json()["usage"]["prompt_tokens"],
            1);  // BOS
}

TEST(OpenAi, CompletionLogprobsAndEcho) {
  TestServer server;
  const Json plain = server.post("/v1/completions", completion({{"logprobs", 2}})).json()["choices"][0];
  ASSERT_EQ(plain["logprobs"]["tokens"].size(), 16u);
  EXPECT_EQ(plain["logprobs"]["text_offset"][0], 0);
  EXPECT_GE(plain["logprobs"]["top_logprobs"][0].size(), 1u);

  const Json echo =
      server
          .post("/v1/completions",
                completion({{"prompt", "the → é"}, {"logprobs", 2}, {"echo", true}, {"max_tokens", 0}}))
          .json();
  const Json& choice = echo["choices"][0];
  EXPECT_EQ(choice["text"], "the → é");
  const Json& lists = choice["logprobs"];
  EXPECT_EQ(lists["tokens"].size(), echo["usage"]["prompt_tokens"]);
  EXPECT_EQ(lists["tokens"][0], "<s>");
  EXPECT_EQ(lists["token_logprobs"][0], Json());
  EXPECT_EQ(lists["top_logprobs"][0], Json());
  EXPECT_LT(lists["token_logprobs"][1], 0);
  EXPECT_EQ(lists["text_offset"].back(), 6);  // in characters: é is the seventh

  const Json both = completion({{"logprobs", 1}, {"echo", true}, {"max_tokens", 4}});
  const Json whole = server.post("/v1/completions", both).json()["choices"][0];
  std::string text;
  Json tokens = Json::array(), offsets = Json::array();
  for (const Json& chunk : chunks(server.post("/v1/completions", with(both, {{"stream", true}})))) {
    text += chunk["choices"][0]["text"].get<std::string>();
    if (chunk["choices"][0]["logprobs"].is_null()) continue;
    for (const Json& token : chunk["choices"][0]["logprobs"]["tokens"]) tokens.push_back(token);
    for (const Json& offset : chunk["choices"][0]["logprobs"]["text_offset"]) offsets.push_back(offset);
  }
  EXPECT_EQ(text, whole["text"].get<std::string>());
  EXPECT_TRUE(text.starts_with("once upon"));
  EXPECT_EQ(tokens, whole["logprobs"]["tokens"]);
  EXPECT_EQ(offsets, whole["logprobs"]["text_offset"]);

  const Json ids =
      server.post("/v1/completions", completion({{"logprobs", 1}, {"return_tokens_as_token_ids", true}}))
          .json();
  for (const Json& token : ids["choices"][0]["logprobs"]["tokens"])
    EXPECT_TRUE(token.get<std::string>().starts_with("token_id:")) << token;
}

/// Of SentencePiece's tokens the first says a space more than the text.
TEST(OpenAi, OffsetsAreThoseOfTheText) {
  TestServer server({.models = {tiny_model("strict")}});
  struct Case {
    Json prompt;
    std::string text;
    Json tokens, offsets;
  };
  const Json ids = server.post("/tokenize", {{"prompt", "the the"}}).json()["tokens"];
  const Json tokens = {"<s>", "the", " the"}, offsets = {0, 0, 3};
  for (const Case& c : {Case{"the the", "the the", tokens, offsets}, Case{ids, "the the", tokens, offsets},
                        Case{" the", " the", {"<s>", " ", " the"}, {0, 0, 0}}}) {
    const Json body = completion({{"prompt", c.prompt}, {"logprobs", 2}, {"echo", true}, {"max_tokens", 0}});
    const Json whole = server.post("/v1/completions", body).json()["choices"][0];
    EXPECT_EQ(whole["text"], c.text);
    EXPECT_EQ(whole["logprobs"]["tokens"], c.tokens);
    EXPECT_EQ(whole["logprobs"]["text_offset"], c.offsets);
    for (const Json& top : whole["logprobs"]["top_logprobs"]) EXPECT_LE(top.size(), 3u) << dump(top);
    const auto list = chunks(server.post("/v1/completions", with(body, {{"stream", true}})));
    EXPECT_EQ(list[0]["choices"][0]["logprobs"], whole["logprobs"]);
  }
}

TEST(OpenAi, LogprobsThatAnAnswerCannotHoldAreRefused) {
  TestServer server({.limits = {.all_body_bytes = 100 * 512}});
  const Json chat_logprobs = {{"logprobs", true}, {"top_logprobs", 4}};  // 5 × 16 tokens
  EXPECT_EQ(server.post("/v1/chat/completions", chat(chat_logprobs)).status, 200);
  const Reply refused = server.post("/v1/chat/completions", chat(with(chat_logprobs, {{"n", 2}})));
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.json()["error"]["param"], "logprobs");
  EXPECT_EQ(
      refused.json()["error"]["message"],
      "logprobs: 2 answers may have 160 log-probabilities in all, at most 100 are allowed: ask for fewer "
      "answers, tokens or alternatives, or stream");
  EXPECT_EQ(server.post("/v1/chat/completions", chat({{"n", 8}})).status, 200);
  EXPECT_EQ(
      server.post("/v1/chat/completions", chat(with(chat_logprobs, {{"n", 2}, {"stream", true}}))).status,
      200);
  EXPECT_EQ(server.post("/v1/completions", completion({{"logprobs", 4}})).status, 200);
  EXPECT_EQ(server.post("/v1/completions", completion({{"logprobs", 4}, {"prompt", {"a", "b"}}})).status,
            400);
  EXPECT_EQ(
      server
          .post("/v1/completions", completion({{"logprobs", 4}, {"prompt", "a, b, a, b, a"}, {"echo", true}}))
          .status,
      400);
}

/// On an idle server with one slot the second choice waits for the first, however long that takes.
TEST(OpenAi, ChoicesThatWaitForEachOtherDoNotTimeOut) {
  TestServer server(
      {.config = {.max_concurrent_requests = 1, .queue_timeout_ms = 50}, .context = 4096, .draft_rows = 0});
  const Json body = completion({{"n", 2}, {"max_tokens", 4000}});
  Reply reply = server.post("/v1/completions", body);
  // Again where the machine is so slow that even an empty queue takes too long.
  for (int i = 0; i < 10 && reply.status == 503; ++i) reply = server.post("/v1/completions", body);
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.json()["choices"].size(), 2u);
}

TEST(OpenAi, MaxCompletionTokensWins) {
  TestServer server;
  EXPECT_EQ(server.post("/v1/chat/completions", chat({{"max_completion_tokens", 3}}))
                .json()["usage"]["completion_tokens"],
            3);
}

TEST(OpenAi, WhatIsIgnoredAndWhatIsRefused) {
  TestServer server;
  const Json extras = {{"user", "me"},          {"metadata", {{"a", "b"}}},
                       {"store", true},         {"unknown", 1},
                       {"stop", Json()},        {"response_format", {{"type", "text"}}},
                       {"tool_choice", "auto"}, {"parallel_tool_calls", true}};
  EXPECT_EQ(server.post("/v1/chat/completions", chat(extras)).status, 200);
  const auto param = [&](const std::string& path, const Json& body, int status = 400) {
    const Reply reply = server.post(path, body);
    EXPECT_EQ(reply.status, status) << dump(body) << reply.body;
    const Json error = reply.json().value("error", Json::object());
    EXPECT_EQ(error.value("type", ""), "invalid_request_error");
    EXPECT_EQ(error.size(), 4u);
    return error.value("param", "?");
  };
  const std::string path = "/v1/chat/completions";
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, Json>>{{"temperature", 2.1},
                                                 {"temperature", "hot"},
                                                 {"top_p", 0},
                                                 {"top_p", 1.1},
                                                 {"n", 0},
                                                 {"n", 129},
                                                 {"presence_penalty", 3},
                                                 {"frequency_penalty", -3},
                                                 {"top_k", -2},
                                                 {"min_p", 2},
                                                 {"repetition_penalty", 0},
                                                 {"max_tokens", 0},
                                                 {"max_completion_tokens", 1.5},
                                                 {"logprobs", 3},
                                                 {"top_logprobs", 3},
                                                 {"stream", "true"},
                                                 {"stream_options", {{"include_usage", true}}},
                                                 {"seed", "x"},
                                                 {"response_format", {{"type", "json_object"}}},
                                                 {"tool_choice", "required"},
                                                 {"tools", "x"},
                                                 {"functions", "x"}})
    EXPECT_EQ(param(path, chat({{name, value}})), name);
  EXPECT_EQ(param(path, chat({{"logprobs", true}, {"top_logprobs", 21}})), "top_logprobs");
  EXPECT_EQ(param(path, chat({{"tools", {5}}})), "tools[0]");
  EXPECT_EQ(param(path, chat({{"functions", {5}}})), "functions[0]");
  const auto called = [](const Json& calls) {
    return chat({{"messages", {{{"role", "assistant"}, {"tool_calls", calls}}}}});
  };
  EXPECT_EQ(param(path, called("x")), "messages[0].tool_calls");
  EXPECT_EQ(param(path, called(Json::array({1}))), "messages[0].tool_calls[0]");
  EXPECT_EQ(param(path, chat({{"model", "no/such"}}), 404), "model");
  EXPECT_EQ(param("/v1/completions", completion({{"best_of", 2}})), "best_of");
  EXPECT_EQ(param("/v1/completions", completion({{"logprobs", 21}})), "logprobs");
  EXPECT_EQ(param("/v1/completions", completion({{"prompt", {1, "x"}}})), "prompt[1]");
  EXPECT_EQ(param("/v1/completions", completion({{"prompt", {1, 999999}}})), "prompt[1]");
  EXPECT_EQ(param("/v1/completions", completion({{"prompt", Json::array()}})), "prompt");
  EXPECT_EQ(param("/v1/completions", completion({{"prompt", {{1, 2}, {3, -1}}}})), "prompt[1][1]");
  const Json too_long =
      server.post("/v1/completions", completion({{"prompt", std::string(600, 'e')}, {"stream", true}}))
          .json()["error"];
  EXPECT_EQ(too_long["code"], "context_length_exceeded");
  EXPECT_EQ(too_long["message"],
            "the prompt has 601 tokens, but this model's context is 512 tokens, prompt and answer "
            "together: shorten the prompt");
}

TEST(OpenAi, StopStringsNeverShow) {
  TestServer server;
  const std::string text =
      server.post("/v1/completions", completion({{"max_tokens", 60}})).json()["choices"][0]["text"];
  // Any part of the answer, cut at characters, may be a stop string.
  std::vector<size_t> starts;
  for (size_t i = 0; i < text.size(); ++i)
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) starts.push_back(i);
  ASSERT_GT(starts.size(), 12u);
  for (const auto& [from, length] : {std::pair{1, 1}, {3, 3}, {5, 6}}) {
    const std::string stop = text.substr(starts[from], starts[from + length] - starts[from]);
    const std::string expected = text.substr(0, text.find(stop));
    const Json whole =
        server.post("/v1/completions", completion({{"max_tokens", 60}, {"stop", {"zzzz", stop}}})).json();
    EXPECT_EQ(whole["choices"][0]["text"], expected);
    EXPECT_EQ(whole["choices"][0]["finish_reason"], "stop");
    std::string streamed;
    for (const Json& chunk : chunks(server.post(
             "/v1/completions", completion({{"max_tokens", 60}, {"stop", stop}, {"stream", true}}))))
      streamed += chunk["choices"][0]["text"].get<std::string>();
    EXPECT_EQ(streamed, expected);
  }
}

}  // namespace
}  // namespace quern::testing
