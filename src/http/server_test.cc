// The wire: what arrives malformed, slowly, too large, without a key, over TLS or not at all.
#include <gtest/gtest.h>

#include <fstream>

#include "http/router.h"
#include "http/test_server.h"

namespace quern::testing {
namespace {

using namespace std::chrono_literals;

std::string code(const Reply& reply) { return reply.json().value("code", ""); }

TEST(Wire, HealthAndRequestIds) {
  TestServer server;
  const Reply live = server.get("/health/live");
  EXPECT_EQ(live.status, 200);
  EXPECT_EQ(live.body, R"({"status":"alive"})");
  EXPECT_TRUE(live.headers.at("x-request-id").starts_with("req-"));
  EXPECT_EQ(server.get("/health/live", "X-Request-Id: mine-42\r\n").headers.at("x-request-id"), "mine-42");
  EXPECT_TRUE(server.get("/health/live", "X-Request-Id: two words\r\n")
                  .headers.at("x-request-id")
                  .starts_with("req-"));
  const Reply ready = server.get("/health/ready");
  EXPECT_EQ(ready.status, 200);
  EXPECT_EQ(ready.json()["ready"], true);
  EXPECT_EQ(ready.json()["models"][0]["state"], "ready");
  EXPECT_EQ(ready.json()["models"].size(), 2u);
}

TEST(Wire, NotReadyIs503WithTheReason) {
  TestServer server({.models = {"/no/such.gguf"}});
  const Reply ready = server.get("/health/ready");
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(ready.json()["models"][0]["state"], "failed");
  EXPECT_NE(ready.json()["models"][0]["error"], Json());
  const Reply reply = server.post("/api/generate", {{"prompt", "x"}});
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(code(reply), "MODEL_LOAD_ERROR");
  EXPECT_NE(reply.json()["error"].get<std::string>().find("/no/such.gguf"), std::string::npos);
}

TEST(Wire, MethodsAndPaths) {
  TestServer server;
  const Reply lost = server.get("/api/generat");
  EXPECT_EQ(lost.status, 404);
  EXPECT_EQ(lost.json()["error"], "GET /api/generat: no such endpoint: did you mean /api/generate?");
  EXPECT_EQ(server.get("/v1/nothing").json()["error"]["code"], "not_found");
  const Reply wrong = server.get("/api/generate");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST, OPTIONS");
  EXPECT_EQ(server.get("/health/live/").status, 200);

  Client client = server.connect();
  client.send("HEAD /health/live HTTP/1.1\r\nHost: h\r\n\r\n");
  const Reply head = client.read(true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-length"), "18");
  client.send("OPTIONS /api/chat HTTP/1.1\r\nHost: h\r\n\r\n");
  const Reply options = client.read();
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.headers.at("allow"), "POST, OPTIONS");
  client.send("GET http://elsewhere/health/live?x=1 HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(client.read().status, 200);
}

TEST(Wire, ContentTypes) {
  TestServer server;
  const std::string body = R"({"prompt":"x","max_tokens":1})";
  const Reply form =
      server.post_raw("/api/generate", body, "Content-Type: application/x-www-form-urlencoded\r\n");
  EXPECT_EQ(form.status, 415);
  EXPECT_NE(form.json()["error"].get<std::string>().find("application/json"), std::string::npos);
  EXPECT_EQ(
      server.post_raw("/api/generate", body, "Content-Type: application/json; charset=latin1\r\n").status,
      415);
  EXPECT_EQ(
      server.post_raw("/api/generate", body, "Content-Type: Application/JSON; charset=UTF-8\r\n").status,
      200);
  const Reply packed = server.post_raw("/api/generate", "\x1f\x8b", "Content-Encoding: gzip\r\n");
  EXPECT_EQ(packed.status, 415);
  EXPECT_EQ(packed.json()["error"], "content-encoding: send the body as it is, not as gzip");
  Client client = server.connect();
  client.send("POST /api/generate HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(client.read().status, 415);
}

TEST(Wire, PipelinedRequestsAreAnsweredInOrder) {
  TestServer server;
  Client client = server.connect();
  client.send(post_text("/api/generate", R"({"prompt":"a","max_tokens":3,"temperature":0})") +
              get_text("/health/live") + get_text("/nowhere") + "garbage\r\n\r\n" + get_text("/health/live"));
  EXPECT_EQ(client.read().json()["tokens_generated"], 3);
  EXPECT_EQ(client.read().status, 200);
  EXPECT_EQ(client.read().status, 404);
  const Reply last = client.read();
  EXPECT_EQ(last.status, 400);
  EXPECT_EQ(last.headers.at("connection"), "close");
  EXPECT_EQ(client.read_all(), "");
}

TEST(Wire, ABodyInAnUnknownCodingIsNoRequest) {
  TestServer server;
  for (const char* coding : {"xchunked", "gzip"}) {
    Client client = server.connect();
    client.send(fmt::format(
        "POST /api/generate HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: "
        "{}\r\n\r\n{}",
        coding, get_text("/health/live")));
    const Reply reply = client.read();
    EXPECT_EQ(reply.status, 400);
    EXPECT_NE(reply.json()["error"].get<std::string>().find("Transfer-Encoding"), std::string::npos);
    EXPECT_EQ(reply.headers.at("connection"), "close");
    EXPECT_EQ(client.read_all(), "");
  }
}

TEST(Wire, BodiesThatAreTooLargeOrAnnounced) {
  TestServer server({.limits = {.body_bytes = 1000}});
  const Reply large = server.post_raw("/api/generate", std::string(100000, 'x'));
  EXPECT_EQ(large.status, 413);
  EXPECT_EQ(code(large), "PAYLOAD_TOO_LARGE");
  EXPECT_EQ(server.post_raw("/v1/completions", std::string(2000, 'x')).json()["error"]["type"],
            "invalid_request_error");
  {
    Client client = server.connect();  // refused before it is sent
    client.send(
        "POST /api/generate HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: "
        "5000\r\nExpect: 100-continue\r\n\r\n");
    EXPECT_EQ(client.read().status, 413);
    EXPECT_EQ(client.interim, 0);
  }
  Client client = server.connect();
  client.send(
      "POST /api/generate HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: "
      "29\r\nExpect: 100-continue\r\n\r\n");
  ASSERT_TRUE(client.read_until("100 Continue\r\n\r\n"));
  client.send(R"({"prompt":"x","max_tokens":1})");
  EXPECT_EQ(client.read().status, 200);
  EXPECT_EQ(client.interim, 1);
  client.send(
      "POST /api/generate HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: "
      "chunked\r\n\r\n5\r\n{\"pro\r\n18\r\nmpt\":\"x\",\"max_tokens\":1}\r\n0\r\n\r\n");
  EXPECT_EQ(client.read().status, 200);
}

TEST(Wire, SlowClientsAreTurnedAway) {
  TestServer server({.limits = {.header_timeout = 200ms, .body_timeout = 200ms, .idle_timeout = 1s}});
  Client silent = server.connect(), slow_head = server.connect(), slow_body = server.connect();
  slow_head.send("GET /health/li");
  slow_body.send(
      "POST /api/generate HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: "
      "50\r\n\r\n{");
  for (int i = 0; i < 5; ++i) {  // a byte now and then does not help
    std::this_thread::sleep_for(30ms);
    slow_head.send("v");
    slow_body.send(" ");
  }
  EXPECT_EQ(slow_head.read().status, 408);
  const Reply body = slow_body.read();
  EXPECT_EQ(body.status, 408);
  EXPECT_EQ(body.headers.at("connection"), "close");
  EXPECT_EQ(silent.read_all(), "");
  EXPECT_EQ(server.get("/health/live").status, 200);
}

TEST(Wire, GarbageAndBrokenConnections) {
  TestServer server;
  for (const std::string& garbage :
       {std::string("\x16\x03\x01\x02\x00", 5), std::string(200000, 'A'), std::string("\r\n\r\n"),
        std::string(1000, '\0'), std::string("GET\r\n\r\n")}) {
    Client client = server.connect();
    client.send(garbage);
    client.half_close();
    client.read_all();
  }
  for (size_t i = 0; i < 50; ++i) {
    Client client = server.connect();
    client.send(post_text("/api/generate", R"({"prompt":"x"})").substr(0, i * 3));
    client.reset();
  }
  Client giant = server.connect();
  giant.send("GET /health/live HTTP/1.1\r\nHost: h\r\nA: " + std::string(60000, 'x') + "\r\n\r\n");
  EXPECT_EQ(giant.read().status, 431);
  EXPECT_EQ(server.get("/health/live").status, 200);
}

TEST(Wire, Http10ClosesAndStreamsUnchunked) {
  TestServer server;
  Client client = server.connect();
  const std::string body = R"({"prompt":"x","max_tokens":3,"temperature":0})";
  client.send(fmt::format(
      "POST /api/generate/stream HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
      body.size(), body));
  const std::string all = client.read_all();
  EXPECT_EQ(all.find("chunked"), std::string::npos);
  EXPECT_TRUE(all.ends_with("\n\ndata: [DONE]\n\n")) << all;
}

TEST(Wire, TooManyConnectionsGet503) {
  TestServer server({.limits = {.connections = 3}});
  std::vector<std::unique_ptr<Client>> held;
  for (int i = 0; i < 3; ++i) {
    held.push_back(std::make_unique<Client>(server.server().port()));
    held.back()->send(get_text("/health/live"));
    EXPECT_EQ(held.back()->read().status, 200);
  }
  Client next = server.connect();
  EXPECT_EQ(next.read().status, 503);
  held.clear();
  for (int i = 0; i < 200 && server.get("/health/live").status != 200; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(server.get("/health/live").status, 200);
}

TEST(Wire, KeysGuardEverythingButHealth) {
  TestServer server({.config = {.api_keys = {"one", "two"}, .cors_origins = {"https://a.example"}}});
  for (const Route& route : all_routes()) {
    if (route.method != "GET" || route.path.find('{') != std::string_view::npos) continue;
    EXPECT_EQ(server.get(std::string(route.path)).status, route.open ? 200 : 401) << route.path;
  }
  EXPECT_EQ(server.get("/nowhere").status, 401);
  const Reply refused = server.post("/v1/completions", {{"prompt", "x"}});
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.json()["error"]["code"], "invalid_api_key");
  for (const char* wrong :
       {"Authorization: Bearer three\r\n", "Authorization: Bearer on\r\n", "X-Api-Key: ONE\r\n",
        "Authorization: Basic one\r\n", "Authorization: Bearer\r\n", "X-Api-Key: \r\n"})
    EXPECT_EQ(server.get("/v1/models", wrong).status, 401) << wrong;
  for (const char* right :
       {"Authorization: Bearer one\r\n", "Authorization: bearer two\r\n", "X-Api-Key: two\r\n"})
    EXPECT_EQ(server.get("/v1/models", right).status, 200) << right;
  Client client = server.connect();
  client.send(
      "OPTIONS /v1/models HTTP/1.1\r\nHost: h\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: "
      "GET\r\n\r\n");
  EXPECT_EQ(client.read().status, 204);
}

TEST(Wire, Cors) {
  TestServer server({.config = {.cors_origins = {"https://a.example", "http://localhost:3000"}}});
  const Reply allowed = server.get("/v1/models", "Origin: https://a.example\r\n");
  EXPECT_EQ(allowed.headers.at("access-control-allow-origin"), "https://a.example");
  EXPECT_EQ(allowed.headers.at("access-control-expose-headers"), "x-request-id, retry-after");
  EXPECT_EQ(allowed.headers.at("vary"), "Origin");
  const Reply other = server.get("/v1/models", "Origin: https://b.example\r\n");
  EXPECT_FALSE(other.headers.contains("access-control-allow-origin"));
  EXPECT_EQ(other.headers.at("vary"), "Origin");
  Client client = server.connect();
  client.send(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: h\r\nOrigin: http://localhost:3000\r\n"
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
      "content-type,x-stainless-os\r\n\r\n");
  const Reply preflight = client.read();
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.headers.at("access-control-allow-origin"), "http://localhost:3000");
  EXPECT_EQ(preflight.headers.at("access-control-allow-headers"), "content-type,x-stainless-os");
  EXPECT_NE(preflight.headers.at("access-control-allow-methods").find("POST"), std::string::npos);

  TestServer open({.config = {.cors_origins = {"*"}}});
  EXPECT_EQ(open.get("/v1/models", "Origin: https://b.example\r\n").headers.at("access-control-allow-origin"),
            "*");
  TestServer closed;
  EXPECT_FALSE(closed.get("/v1/models", "Origin: https://a.example\r\n")
                   .headers.contains("access-control-allow-origin"));
}

TEST(Wire, Tls) {
  const auto [cert, key] = certificate();
  TestServer server({.config = {.tls = true, .tls_cert = cert, .tls_key = key}});
  EXPECT_EQ(server.get("/health/live").status, 200);
  const Reply reply =
      server.post("/api/generate/stream", {{"prompt", "x"}, {"max_tokens", 5}, {"temperature", 0}});
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.last_event(), "[DONE]");
  Client plain(server.server().port(), false);
  plain.send(get_text("/health/live"));
  EXPECT_EQ(plain.read_all().find("200 OK"), std::string::npos);
  EXPECT_EQ(server.get("/health/live").status, 200);
  Client leaver = server.connect();
  leaver.send(post_text("/api/generate/stream", R"({"prompt":"x","max_tokens":400,"ignore_eos":true})"));
  ASSERT_TRUE(leaver.read_until("data: "));
  leaver.reset();
  EXPECT_TRUE(server.metric_becomes("quern_requests_running", 0));
}

TEST(Wire, AServerThatCannotStartSaysWhy) {
  TestServer running;
  const auto metrics = Metrics::create();
  const auto error_of = [&](const Config& config) {
    const auto server = Server::create(config, running.host(), *metrics);
    EXPECT_FALSE(server);
    return server ? "" : server.error().message;
  };
  Config taken;
  taken.port = running.server().port();
  EXPECT_TRUE(error_of(taken).starts_with(fmt::format("cannot listen on 127.0.0.1:{}: ", taken.port)));
  Config nowhere;
  nowhere.hostname = "no.such.host.invalid";
  EXPECT_TRUE(error_of(nowhere).starts_with("LLM_INFERENCE_HOSTNAME: no.such.host.invalid: "));
  const auto [cert, key] = certificate();
  Config tls{.port = 0, .tls = true, .tls_cert = "/no/cert.pem", .tls_key = key};
  EXPECT_EQ(error_of(tls), "TLS_SERVER_CERT_PATH: /no/cert.pem: no such file");
  tls.tls_cert = key;
  EXPECT_TRUE(error_of(tls).starts_with("TLS_SERVER_CERT_PATH: " + key + ": not a PEM certificate"));
  tls.tls_cert = cert;
  tls.tls_key = cert;
  EXPECT_TRUE(
      error_of(tls).starts_with("TLS_SERVER_KEY_PATH: " + cert + ": not the certificate's private key"));
}

TEST(Stop, RunningRequestsFinishAndNewOnesAreRefused) {
  TestServer server;
  Client waiting = server.connect(), streaming = server.connect();
  Client asking = server.connect(), idle = server.connect();
  for (Client* client : {&asking, &idle}) {
    client->send(get_text("/health/ready"));
    EXPECT_EQ(client->read().status, 200);
  }
  auto hold = server.hold();
  const std::string body = R"({"prompt":"x","max_tokens":50,"ignore_eos":true,"temperature":0})";
  waiting.send(post_text("/api/generate", body));
  streaming.send(post_text("/api/generate/stream", body));
  ASSERT_TRUE(server.requests_become(2));
  server.server().stop(200s);
  while (Client(server.server().port()).connected()) std::this_thread::sleep_for(1ms);
  // While something runs, connections that are there are answered: balancers ask on them.
  asking.send(get_text("/health/ready"));
  const Reply ready = asking.read();
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(ready.headers.at("connection"), "close");
  EXPECT_EQ(asking.read_all(), "");
  hold.unlock();
  EXPECT_EQ(waiting.read().json()["tokens_generated"], 50);
  EXPECT_EQ(streaming.read().last_event(), "[DONE]");
  // Then idle ones are closed without a word.
  EXPECT_EQ(idle.read_all(), "");
  server.join();
}

TEST(Stop, TheGracePeriodEnds) {
  TestServer server({.config = {.max_tokens_limit = 30000}, .context = 32000});
  Client waiting = server.connect(), streaming = server.connect();
  const std::string body = R"({"prompt":"x","max_tokens":30000,"ignore_eos":true)";
  waiting.send(post_text("/api/generate", body + "}"));
  streaming.send(post_text("/v1/completions", body + R"(,"stream":true})"));
  ASSERT_TRUE(streaming.read_until("data: "));
  auto hold = server.hold();
  ASSERT_TRUE(server.requests_become(2));
  server.server().stop(200s);
  server.server().stop(30ms);
  const Reply unfinished = waiting.read();
  EXPECT_EQ(unfinished.status, 503);
  EXPECT_EQ(code(unfinished), "SERVICE_UNAVAILABLE");
  const auto events = streaming.read().events();
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(Json::parse(events.back())["error"]["message"], "the server is stopping");
  server.join();
  hold.unlock();
  EXPECT_TRUE(server.requests_become(0));
}

}  // namespace
}  // namespace quern::testing
