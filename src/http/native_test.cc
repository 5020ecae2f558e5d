// The native endpoints, their streams and the helpers.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <memory>

#include "http/test_server.h"

namespace quern::testing {
namespace {

using namespace std::chrono_literals;

Json greedy(std::string_view prompt, int tokens = 12) {
  return {{"prompt", prompt}, {"temperature", 0}, {"max_tokens", tokens}, {"ignore_eos", true}};
}

std::string text_of(const Reply& stream, const char* field) {
  std::string text;
  for (const auto& event : stream.events())
    if (event != "[DONE]") text += Json::parse(event).value(field, "");
  return text;
}

TEST(Native, TheStreamIsTheAnswerByteForByte) {
  TestServer server;
  const Reply whole = server.post("/api/generate", greedy("the cat", 40));
  ASSERT_EQ(whole.status, 200) << whole.body;
  EXPECT_EQ(whole.headers.at("content-type"), "application/json");
  const Json answer = whole.json();
  EXPECT_EQ(answer["model"], tiny_model("chat"));
  EXPECT_EQ(answer["tokens_generated"], 40);
  EXPECT_EQ(answer["finish_reason"], "length");

  const Reply stream = server.post("/api/generate/stream", greedy("the cat", 40));
  EXPECT_EQ(stream.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_EQ(stream.headers.at("cache-control"), "no-cache");
  EXPECT_EQ(text_of(stream, "text"), answer["text"].get<std::string>());
  EXPECT_TRUE(stream.body.starts_with("data: {\"text\":"));
  EXPECT_TRUE(stream.body.ends_with(
      "data: {\"done\":true,\"finish_reason\":\"length\",\"tokens_generated\":40}\n\ndata: [DONE]\n\n"))
      << stream.body;
  const auto events = stream.events();
  for (size_t i = 0; i + 2 < events.size(); ++i) EXPECT_EQ(Json::parse(events[i]).size(), 1u) << events[i];
}

TEST(Native, ChatAndItsStream) {
  TestServer server;
  const Json body = {
      {"messages", {{{"role", "user"}, {"content", "hi there"}}}}, {"temperature", 0}, {"max_tokens", 20}};
  const Json answer = server.post("/api/chat", body).json();
  EXPECT_EQ(answer["message"]["role"], "assistant");
  const Reply stream = server.post("/api/chat/stream", body);
  EXPECT_EQ(text_of(stream, "content"), answer["message"]["content"].get<std::string>());
  EXPECT_EQ(stream.last_event(), "[DONE]");
  // The same as the rendered prompt sent as it is, since the template writes BOS itself.
  const std::string prompt = server.post("/apply-template", body).json()["prompt"];
  EXPECT_EQ(prompt, "<s>[user]hi there[assistant]");
  const Json ids = server.post("/tokenize", {{"content", prompt}}).json()["tokens"];
  EXPECT_EQ(ids[0], 1);
  const Json same =
      server.post("/v1/completions", {{"prompt", ids}, {"temperature", 0}, {"max_tokens", 20}}).json();
  EXPECT_EQ(same["choices"][0]["text"], answer["message"]["content"]);
}

TEST(Native, StopStringsEosAndDefaults) {
  TestServer server(
      {.config = {.default_temperature = 0.0f, .default_max_tokens = 7, .max_tokens_limit = 9}});
  const Json plain = server.post("/api/generate", {{"prompt", "the"}, {"ignore_eos", true}}).json();
  EXPECT_EQ(plain["tokens_generated"], 7);
  EXPECT_EQ(server.post("/api/generate", {{"prompt", "the"}, {"ignore_eos", true}, {"max_tokens", 5000}})
                .json()["tokens_generated"],
            9);
  // Forcing a token forces the end: the byte "A", then EOS.
  const Json letter = {
      {"prompt", "the"}, {"logit_bias", {{"71", 100}}}, {"stop", {"AAA", "never"}}};  // 71 = <0x41>
  const Json stopped = server.post("/api/generate", letter).json();
  EXPECT_EQ(stopped["text"], "");
  EXPECT_EQ(stopped["finish_reason"], "stop");
  const Json ended = server.post("/api/generate", {{"prompt", "the"}, {"logit_bias", {{"2", 100}}}}).json();
  EXPECT_EQ(ended["finish_reason"], "eos");
  EXPECT_EQ(ended["tokens_generated"], 0);
  // A stop string given as plain text, cut out of the stream as well.
  const Json part = {{"prompt", "the"}, {"logit_bias", {{"71", 100}}}, {"stop", "AAAA"}};
  EXPECT_EQ(text_of(server.post("/api/generate/stream", part), "text"), "");
}

TEST(Native, FillInTheMiddle) {
  TestServer server;
  Json body = greedy("def add(");
  body["suffix"] = "return a";
  const Reply filled = server.post("/api/completions", body);
  ASSERT_EQ(filled.status, 200) << filled.body;
  std::vector<int> ids = {1, 3};
  for (const char* part : {"def add(", "return a"}) {
    const Json tokens = server.post("/tokenize", {{"content", part}}).json()["tokens"];
    for (const Json& id : tokens) ids.push_back(id.get<int>());
    ids.push_back(part[0] == 'd' ? 4 : 5);
  }
  const Json same = server
                        .post("/v1/completions",
                              {{"prompt", ids}, {"temperature", 0}, {"max_tokens", 12}, {"ignore_eos", true}})
                        .json();
  EXPECT_EQ(same["choices"][0]["text"], filled.json()["text"]);
  body["model"] = tiny_model("base");
  const Reply refused = server.post("/api/completions", body);
  EXPECT_EQ(refused.status, 400);
  EXPECT_TRUE(refused.json()["error"].get<std::string>().starts_with("suffix: "));
  EXPECT_EQ(server.post("/v1/completions", {{"prompt", "a"}, {"suffix", "b"}, {"model", tiny_model("base")}})
                .json()["error"]["param"],
            "suffix");
}

TEST(Native, BadRequestsNameTheField) {
  TestServer server;
  const auto error = [&](const std::string& path, const Json& body, int status = 400) {
    const Reply reply = server.post(path, body);
    EXPECT_EQ(reply.status, status) << path << " " << dump(body) << " " << reply.body;
    return reply.json().value("error", "");
  };
  EXPECT_EQ(error("/api/generate", Json::object()), "prompt: required, but missing");
  EXPECT_EQ(error("/api/generate", {{"prompt", "x"}, {"temperature", "hot"}}),
            "temperature: must be a number between 0 and 2, got \"hot\"");
  EXPECT_TRUE(
      error("/api/generate", {{"prompt", "x"}, {"stop", {1}}}).starts_with("stop: must hold strings only"));
  EXPECT_TRUE(
      error("/api/generate", {{"prompt", "x"}, {"stop", ""}}).starts_with("stop: must not hold an empty"));
  EXPECT_EQ(error("/api/generate", {{"prompt", "x"}, {"stop", {"a", std::string(1025, 'x')}}}),
            "stop: has a string of 1025 bytes, at most 1024 are allowed");
  EXPECT_EQ(
      server.post("/api/generate", {{"prompt", "x"}, {"max_tokens", 1}, {"stop", std::string(1024, 'x')}})
          .status,
      200);
  for (const Json& tokens :
       std::vector<Json>{1e300, 9223372036854775808u, -4294967290, -1, 3.7, "x", 4294967296}) {
    const Json text = {{"prompt", "x"}, {"max_completion_tokens", tokens}};
    const Json chat = {{"messages", {{{"role", "user"}, {"content", "x"}}}},
                       {"max_completion_tokens", tokens}};
    for (const char* path : {"/api/generate", "/api/completions"})
      EXPECT_TRUE(error(path, text).starts_with("max_completion_tokens: must be an integer between 0 and "));
    EXPECT_TRUE(error("/api/chat", chat).starts_with("max_completion_tokens: must be an integer"));
    EXPECT_EQ(server.post("/v1/completions", text).json()["error"]["param"], "max_completion_tokens");
  }
  EXPECT_TRUE(error("/api/generate", {{"prompt", "x"}, {"logit_bias", {{"x", 1}}}})
                  .starts_with("logit_bias: keys must be"));
  EXPECT_TRUE(error("/api/generate", {{"prompt", "x"}, {"logit_bias", {{"5", 101}}}})
                  .starts_with("logit_bias: values must be"));
  EXPECT_TRUE(error("/api/chat", {{"messages", "hi"}}).starts_with("messages: must be an array"));
  EXPECT_TRUE(error("/api/chat", {{"messages", Json::array()}})
                  .starts_with("messages: must be an array of at least one"));
  EXPECT_EQ(error("/api/chat", {{"messages", {{{"content", "x"}}}}}),
            "messages[0].role: required, but missing");
  EXPECT_EQ(error("/api/chat", {{"messages", {{{"role", "user"}}}}}),
            "messages[0].content: required, but missing");
  EXPECT_TRUE(error("/api/chat", {{"messages", {{{"role", "user"}, {"content", 5}}}}})
                  .starts_with("messages[0].content: must be"));
  const Json image = {
      {"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}, {"image_url", "x"}}}}}}}};
  EXPECT_TRUE(
      error("/api/chat", image).starts_with("messages[0].content[0]: type \"image_url\" is not supported"));
  EXPECT_NE(
      error("/api/chat", {{"messages", {{{"role", "clown"}, {"content", "x"}}}}}).find("no clowns here"),
      std::string::npos);
  EXPECT_NE(error("/api/chat",
                  {{"model", tiny_model("base")}, {"messages", {{{"role", "user"}, {"content", "x"}}}}})
                .find("no chat template"),
            std::string::npos);
  EXPECT_NE(error("/api/generate", {{"prompt", "x"}, {"model", "no/such"}}, 404).find("no/such"),
            std::string::npos);
  const std::string too_long = error("/api/generate", greedy(std::string(600, 'e')));
  EXPECT_NE(too_long.find("601 tokens"), std::string::npos) << too_long;
  EXPECT_NE(too_long.find("512"), std::string::npos) << too_long;
  EXPECT_NE(error("/api/generate/stream", greedy(std::string(8 << 20, 'x'))).find("at least"),
            std::string::npos);
  Json wide;
  for (int i = 0; i < 5000; ++i) wide[std::to_string(i)] = i;
  EXPECT_NE(error("/api/generate", {{"prompt", "x"}, {"unknown", wide}}).find("more than 4096 members"),
            std::string::npos);
  EXPECT_EQ(server.post_raw("/api/generate", "{\"prompt\": \"\xff\"}").status, 400);
  EXPECT_EQ(server.post("/api/generate", greedy("still there")).status, 200);
}

TEST(Native, ModelsAndTensors) {
  TestServer server;
  const Json llms = server.get("/api/llms").json();
  ASSERT_EQ(llms.size(), 2u);
  EXPECT_EQ(llms[0]["id"], tiny_model("chat"));
  EXPECT_EQ(llms[0]["state"], "ready");
  EXPECT_GT(llms[0]["parameters"], 0);
  EXPECT_EQ(llms[0]["context"], 512);
  std::string escaped;
  for (const char c : tiny_model("chat")) escaped += c == '/' ? "%2F" : std::string(1, c);
  for (const std::string& id : {tiny_model("chat"), escaped}) {
    const Reply reply = server.get("/api/llms/" + id + "/quantization");
    ASSERT_EQ(reply.status, 200) << reply.body;
    const Json tensor = reply.json()["tensors"][0];
    EXPECT_EQ(tensor["asked"], "F32");
    EXPECT_EQ(tensor["used"], "F32");
    EXPECT_TRUE(tensor["error"].is_null()) << "the file does not tell";
  }
  EXPECT_EQ(server.get("/api/llms/none/quantization").status, 404);
}

TEST(Native, TokenizeInBothDialects) {
  TestServer server;
  const Json bare = server.post("/tokenize", {{"content", "the 🦙"}}).json();
  const Json with_bos = server.post("/tokenize", {{"prompt", "the 🦙"}}).json();
  EXPECT_EQ(with_bos["count"], bare["count"].get<int>() + 1);
  EXPECT_EQ(with_bos["tokens"][0], 1);
  EXPECT_EQ(server.post("/tokenize", {{"content", "the 🦙"}, {"add_special", true}}).json()["tokens"],
            with_bos["tokens"]);
  EXPECT_EQ(with_bos["max_model_len"], 512);
  const Json pieces = server.post("/tokenize", {{"content", "aÿ"}, {"with_pieces", true}}).json()["tokens"];
  EXPECT_EQ(pieces[0]["piece"], "a");
  EXPECT_EQ(pieces[1]["piece"], Json({0xc3}));
  const Json special = server.post("/tokenize", {{"content", "<s>"}}).json()["tokens"];
  EXPECT_EQ(special, Json({1}));
  EXPECT_GT(server.post("/tokenize", {{"content", "<s>"}, {"parse_special", false}}).json()["tokens"].size(),
            1u);
  const Json back = server.post("/detokenize", {{"tokens", bare["tokens"]}}).json();
  EXPECT_EQ(back["content"], "the 🦙");
  EXPECT_EQ(back["prompt"], "the 🦙");
  EXPECT_EQ(server.post("/detokenize", {{"tokens", {999999}}}).status, 400);
  const Json chat = {{"messages", {{{"role", "user"}, {"content", "a"}}}}};
  EXPECT_EQ(server.post("/tokenize", chat).json()["tokens"][0], 1);
  EXPECT_EQ(server.post("/tokenize", Json::object()).status, 400);
}

/// Most memory that this process has had since it was last asked, in bytes; 0 where the system does not tell.
int64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  int64_t kib = 0;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) kib = std::stol(line.substr(6));
  std::ofstream reset("/proc/self/clear_refs");
  reset << 5 << std::flush;
  return reset ? kib << 10 : 0;
}

TEST(Native, TokenizingALongText) {
  TestServer server;
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "a b ";
  const std::string body = dump({{"content", text}, {"with_pieces", true}, {"return_token_strs", true}});
  text = {};
  peak_memory();
  const int64_t before = peak_memory();
  const Reply reply = server.post_raw("/tokenize", body);
  const int64_t peak = peak_memory();
  EXPECT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.body.starts_with(R"({"tokens":[{"id":)")) << reply.body.substr(0, 100);
  const std::string counts = R"(],"count":400000,"max_model_len":512,"token_strs":["a","▁","b",)";
  EXPECT_NE(reply.body.find(counts), std::string::npos);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  if (peak > 0) {
    EXPECT_LT(peak - before, 100 << 20) << "a quarter of what one value for each token takes";
  }
#endif
  const Reply refused = server.post("/tokenize", {{"content", std::string(8 << 20, 'x')}});
  EXPECT_EQ(refused.status, 400) << "what no other endpoint would take";
  EXPECT_NE(refused.json()["error"].get<std::string>().find("at least"), std::string::npos) << refused.body;
}

TEST(Native, ToolCallsNeedNoContent) {
  TestServer server({.models = {tiny_model("chat"), tiny_model("strict")}});
  const Json call = {{"type", "function"}, {"function", {{"name", "f"}, {"arguments", "{}"}}}};
  for (const bool absent : {false, true}) {
    Json assistant = {{"role", "assistant"}, {"content", Json()}, {"tool_calls", Json::array({call})}};
    if (absent) assistant.erase("content");
    Json body = {{"model", tiny_model("strict")},
                 {"messages",
                  {{{"role", "user"}, {"content", "x"}},
                   assistant,
                   {{"role", "tool"}, {"content", "5"}, {"tool_call_id", "1"}}}}};
    const Reply strict = server.post("/apply-template", body);
    EXPECT_EQ(strict.status, 200) << strict.body;
    EXPECT_EQ(strict.json().value("prompt", "?"), "[user]x[assistant]f[tool]5");
    body["model"] = tiny_model("chat");
    const std::string lenient = server.post("/apply-template", body).json().value("prompt", "?");
    EXPECT_EQ(lenient, absent ? "<s>[user]x[assistant][tool]5[assistant]"
                              : "<s>[user]x[assistant][none][tool]5[assistant]")
        << "a template that takes it as it is gets it as it is";
  }
}

TEST(Native, TemplatesSeeToolsPartsAndMore) {
  TestServer server;
  const auto render = [&](const Json& body) {
    return server.post("/apply-template", body).json().value("prompt", "?");
  };
  Json body = {{"messages",
                {{{"role", "developer"}, {"content", "be kind"}},
                 {{"role", "user"},
                  {"content", {{{"type", "text"}, {"text", "one"}}, {{"type", "text"}, {"text", "two"}}}}}}},
               {"tools", {{{"type", "function"}, {"function", {{"name", "f"}}}}}},
               {"add_generation_prompt", false},
               {"chat_template_kwargs", {{"extra", "more"}}}};
  EXPECT_EQ(render(body), "<s>[system]be kind[user]one\ntwo[tools]1more");
  body["tool_choice"] = "none";
  body["add_generation_prompt"] = true;
  EXPECT_EQ(render(body), "<s>[system]be kind[user]one\ntwo[assistant]more");
}

/// `leave` is called while the engine has the client's request in hand.
void expect_forgotten(TestServer& server, const std::function<void(std::unique_ptr<Client>)>& leave) {
  for (const std::string path : {"/api/generate", "/api/generate/stream"}) {
    auto hold = server.hold();
    auto client = std::make_unique<Client>(server.server().port());
    client->send(post_text(path, R"({"prompt":"x","max_tokens":400,"ignore_eos":true})"));
    ASSERT_TRUE(server.requests_become(1)) << path;
    leave(std::move(client));
    EXPECT_TRUE(server.metric_becomes(
        fmt::format("quern_http_requests_total{{route=\"{}\",status=\"499\"}}", path), 1));
    hold.unlock();
    EXPECT_TRUE(server.requests_become(0)) << path;
  }
}

TEST(Native, AClientThatLeavesIsForgottenAtOnce) {
  TestServer server;
  const double free = server.metric("quern_kv_blocks_free");
  expect_forgotten(server, [](std::unique_ptr<Client> client) { client->reset(); });
  EXPECT_TRUE(server.metric_becomes("quern_kv_blocks_free", free));
  const auto model = *server.host().get("");
  EXPECT_LE(model->engine->stats().generated_tokens, 2u) << "at most the step that was under way";
}

/// As curl does when it is interrupted, where the test above resets: only a write tells that nobody reads.
TEST(Native, AClientThatClosesIsForgottenAtOnce) {
  TestServer server({.limits = {.probe_interval = 1h}});                             // the first probe tells
  expect_forgotten(server, [](std::unique_ptr<Client> client) { client.reset(); });  // its socket is closed
}

/// As nc -N does, and some clients of HTTP/1.0.
TEST(Native, AClientThatOnlyClosesItsSideIsAnswered) {
  TestServer server({.limits = {.probe_interval = 1ms}});
  const std::string ask = R"({"prompt":"x","max_tokens":20,"temperature":0})";
  const Reply expected = server.post_raw("/api/generate", ask);
  const Reply streamed = server.post_raw("/api/generate/stream", ask);
  Client client = server.connect();
  auto hold = server.hold();
  client.send(post_text("/tokenize", R"({"content":"x"})") + post_text("/api/generate", ask) +
              post_text("/api/generate/stream", ask));
  client.half_close();
  ASSERT_TRUE(server.requests_become(1));
  std::this_thread::sleep_for(20ms);  // for some probes
  hold.unlock();
  EXPECT_EQ(client.read().status, 200);
  EXPECT_EQ(client.read().body, expected.body);
  EXPECT_EQ(client.read().events(), streamed.events());
  EXPECT_EQ(client.read_all(), "");
}

/// What it has sent ahead lies before the end of its stream, and is not read while its answer is made.
TEST(Native, AClientThatSentMuchAheadIsForgottenToo) {
  TestServer server;
  auto hold = server.hold();
  Client client = server.connect();
  client.send(post_text("/api/generate", R"({"prompt":"x","max_tokens":400,"ignore_eos":true})"));
  ASSERT_TRUE(server.requests_become(1));
  client.send(std::string(200000, 'x'));
  client.half_close();
  EXPECT_TRUE(server.metric_becomes("quern_http_requests_total{route=\"/api/generate\",status=\"499\"}", 1));
  hold.unlock();
  EXPECT_TRUE(server.requests_become(0));
}

/// Nobody reads: what waits is bounded, and the request ends.
TEST(Native, AReaderThatStopsReadingIsLeft) {
  TestServer server({.config = {.max_tokens_limit = 100000},
                     .limits = {.stream_bytes = 2000, .write_timeout = 300ms},
                     .context = 2048});
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<Client>(server.server().port()));
    // Log-probabilities make events large enough to fill the socket's buffers.
    clients.back()->send(
        post_text("/v1/completions",
                  R"({"prompt":"x","max_tokens":2000,"ignore_eos":true,"stream":true,"logprobs":20,"n":4})"));
  }
  EXPECT_TRUE(server.metric_becomes("quern_requests_waiting", 0));
  EXPECT_TRUE(server.metric_becomes("quern_requests_running", 0));
}

TEST(Native, AFullQueueIs503) {
  TestServer server({.config = {.max_concurrent_requests = 1, .max_queued_requests = 1}});
  const auto hold = server.hold();
  Client running = server.connect(), queued = server.connect();
  for (Client* client : {&running, &queued})
    client->send(post_text("/api/generate/stream", R"({"prompt":"x","max_tokens":2})"));
  ASSERT_TRUE(server.requests_become(2));
  const Reply full = server.post("/v1/completions", {{"prompt", "z"}});
  EXPECT_EQ(full.status, 503) << full.body;
  EXPECT_TRUE(full.headers.contains("retry-after"));
  EXPECT_EQ(full.json()["error"]["type"], "server_error");
}

TEST(Native, ALongWaitIs503) {
  constexpr auto wait = 50ms;
  TestServer server(
      {.config = {.max_concurrent_requests = 1, .queue_timeout_ms = static_cast<int>(wait.count())},
       .context = 4096,
       .draft_rows = 0});
  const auto request = [](int tokens) {
    return post_text("/api/generate/stream",
                     fmt::format(R"({{"prompt":"x","max_tokens":{},"temperature":0}})", tokens));
  };
  std::unique_ptr<Client> running;
  std::unique_lock<std::mutex> hold;
  do {  // again where the machine is so slow that even an empty queue takes too long
    hold = {};
    running = std::make_unique<Client>(server.server().port());
    running->send(request(4000));
    while (!running->has_data()) std::this_thread::sleep_for(1ms);
    // An engine that is at work: one that waits for some may want the lock to let go of the model's file.
    hold = server.hold();
  } while (server.metric("quern_requests_running") != 1);
  Client queued = server.connect();
  queued.send(request(2));
  ASSERT_TRUE(server.metric_becomes("quern_requests_waiting", 1));
  std::this_thread::sleep_for(2 * wait);
  hold.unlock();
  const Reply late = queued.read();  // a stream, but its status is still open
  EXPECT_EQ(late.status, 503);
  EXPECT_TRUE(late.headers.contains("retry-after"));
  EXPECT_EQ(late.json()["code"], "SERVICE_UNAVAILABLE");
  EXPECT_EQ(running->read().last_event(), "[DONE]");
  EXPECT_TRUE(server.metric_becomes("quern_requests_running", 0));
  EXPECT_GE(server.metric(R"(quern_requests_finished_total{reason="failed"})"), 1);
  EXPECT_EQ(server.metric("quern_request_seconds_count"), server.metric("quern_queue_seconds_count"));
}

TEST(Native, Metrics) {
  TestServer server;
  server.post("/api/generate", greedy("hello", 5));
  // Counted once it is written, which the client may see a little earlier.
  ASSERT_TRUE(server.metric_becomes("quern_http_requests_total{route=\"/api/generate\",status=\"200\"}", 1));
  const Reply reply = server.get("/metrics");
  EXPECT_TRUE(reply.headers.at("content-type").starts_with("text/plain"));
  for (const char* line :
       {"\nquern_requests_running 0\n", "\nquern_requests_waiting 0\n",
        "\nquern_tokens_total{kind=\"generated\"} 5\n", "\nquern_time_to_first_token_seconds_count 1\n",
        "\nquern_queue_seconds_count 1\n", "\nquern_request_seconds_count 1\n",
        "\nquern_time_per_output_token_seconds_count 4\n", "state=\"ready\"} 1\n"})
    EXPECT_NE(reply.body.find(line), std::string::npos) << line << reply.body;
  EXPECT_EQ(server.metric("quern_kv_blocks_free"), server.metric("quern_kv_blocks_total"));
}

/// A thousand streams that wait, and no thread for any of them.
TEST(Native, AThousandIdleStreams) {
  TestServer server(
      {.config = {.max_concurrent_requests = 1, .max_queued_requests = 2000, .queue_timeout_ms = 60000}});
  const auto threads = [] {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++count;
    return count;
  };
  const size_t before = threads();
  auto hold = server.hold();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 400; ++i) {  // below the usual limit of descriptors: each stream has two ends here
    clients.push_back(std::make_unique<Client>(server.server().port()));
    clients.back()->send(
        post_text("/api/generate/stream", R"({"prompt":"x","max_tokens":400,"ignore_eos":true})"));
  }
  EXPECT_TRUE(server.metric_becomes("quern_requests_waiting", 399));
  EXPECT_LT(threads(), before + 50);  // a few may not have started, or ended, when they were counted
  EXPECT_EQ(server.get("/health/live").status, 200);
  for (auto& client : clients) client->reset();
  hold.unlock();
  EXPECT_TRUE(server.metric_becomes("quern_requests_waiting", 0));
  EXPECT_TRUE(server.metric_becomes("quern_requests_running", 0));
}

}  // namespace
}  // namespace quern::testing
