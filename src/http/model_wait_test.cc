// Requests for a model that is not there yet.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "http/test_server.h"

namespace quern::testing {
namespace {

using namespace std::chrono_literals;

constexpr const char* kBody = R"({"prompt":"the cat","temperature":0,"max_tokens":5,"ignore_eos":true})";

/// A server whose one model is being downloaded (40 of 100 bytes are there) until `arrive` is called.
class Download {
 public:
  explicit Download(Config config = {})
      : server_({.config = std::move(config), .models = {"owner/repo"}, .wait = false, .fetch = fetch()}) {
    while (!seen_) std::this_thread::sleep_for(1ms);
  }
  ~Download() { come_ = true; }
  TestServer& server() { return server_; }
  void arrive() { come_ = true; }

 private:
  FetchModel fetch() {
    return [this](const std::string&, const FetchProgress& progress,
                  const std::stop_token&) -> Result<std::string> {
      while (!come_) {
        if (!progress(40, 100, ModelState::downloading)) return fail(ErrorCode::cancelled, "cancelled");
        seen_ = true;
        std::this_thread::sleep_for(1ms);
      }
      return tiny_model("chat");
    };
  }
  std::atomic<bool> come_{false}, seen_{false};
  TestServer server_;
};

TEST(ModelWait, ARequestWaitsForItsModel) {
  Download download;
  TestServer& server = download.server();
  Client first = server.connect(), second = server.connect();
  first.send(post_text("/api/generate", kBody));
  second.send(post_text("/api/generate/stream", kBody));
  ASSERT_TRUE(server.metric_becomes("quern_requests_waiting", 2));
  const Json ready = server.get("/health/ready").json();
  EXPECT_EQ(ready["ready"], false);
  EXPECT_EQ(ready["models"][0]["state"], "downloading");
  EXPECT_EQ(ready["models"][0]["bytes_done"], 40);
  EXPECT_EQ(ready["models"][0]["bytes_total"], 100);
  EXPECT_GE(ready["models"][0]["eta_s"], 0.0);
  const std::string metrics = server.get("/metrics").body;
  EXPECT_NE(metrics.find(R"(quern_model_state{model="owner/repo",state="downloading"} 1)"),
            std::string::npos);
  EXPECT_NE(metrics.find(R"(quern_model_progress_bytes{model="owner/repo",kind="done"} 40)"),
            std::string::npos);
  download.arrive();
  EXPECT_EQ(first.read().json()["tokens_generated"], 5);
  EXPECT_EQ(second.read().last_event(), "[DONE]");
  EXPECT_EQ(server.get("/health/ready").status, 200);
  EXPECT_TRUE(server.metric_becomes("quern_requests_waiting", 0));
}

TEST(ModelWait, EndsWithTheQueueTimeout) {
  Config config;
  config.queue_timeout_ms = 50;
  Download download(config);
  const Reply reply = download.server().post_raw("/v1/completions", kBody);
  EXPECT_EQ(reply.status, 503);
  EXPECT_TRUE(reply.headers.contains("retry-after"));
  EXPECT_EQ(reply.json()["error"]["message"], "model owner/repo is being downloaded (40 %)");
  EXPECT_TRUE(download.server().metric_becomes("quern_requests_waiting", 0));
}

TEST(ModelWait, TheQueueIsBounded) {
  Config config;
  config.max_queued_requests = 1;
  Download download(config);
  TestServer& server = download.server();
  Client waiting = server.connect();
  waiting.send(post_text("/api/generate", kBody));
  ASSERT_TRUE(server.metric_becomes("quern_requests_waiting", 1));
  const Reply refused = server.post_raw("/api/generate", kBody);
  EXPECT_EQ(refused.status, 503);
  EXPECT_TRUE(refused.headers.contains("retry-after"));
  download.arrive();
  EXPECT_EQ(waiting.read().json()["tokens_generated"], 5);
}

TEST(ModelWait, WhoLeavesWaitsNoLonger) {
  Download download;
  {
    Client leaving = download.server().connect();
    leaving.send(post_text("/api/generate", kBody));
    ASSERT_TRUE(download.server().metric_becomes("quern_requests_waiting", 1));
  }
  EXPECT_TRUE(download.server().metric_becomes("quern_requests_waiting", 0));
}

TEST(ModelWait, AStopEndsIt) {
  Download download;
  TestServer& server = download.server();
  Client waiting = server.connect();
  waiting.send(post_text("/api/generate", kBody));
  ASSERT_TRUE(server.metric_becomes("quern_requests_waiting", 1));
  server.server().stop(200s);
  const Reply reply = waiting.read();
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(reply.json()["error"], "the server is stopping");
  server.join();
}

}  // namespace
}  // namespace quern::testing
