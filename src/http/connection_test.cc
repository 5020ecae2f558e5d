// A connection over a line, before an engine, and with workers that the test moves by hand, on one thread:
// what happens while a write, an answer or a handler is under way, without a clock.
#include "http/connection.h"

#include <gtest/gtest.h>

#include <latch>
#include <mutex>

#include "engine/fake_model.h"
#include "http/coroutines.h"
#include "http/test_server.h"

namespace quern::testing {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using namespace std::chrono_literals;

/// The client's side of one connection.
struct Line {
  explicit Line(asio::any_io_executor executor) : executor(std::move(executor)) {}

  void send(std::string_view text) {
    arrived += text;
    feed();
  }
  /// The client has closed its side, and reads on.
  void half_close() {
    ended = true;
    feed();
  }
  /// It has closed both: the network says so to who writes.
  void leave() {
    left = true;
    half_close();
    if (writing()) refuse();
  }
  void refuse() {
    if (reset_seen) asio::post(executor, std::exchange(reset_seen, nullptr));
  }
  bool writing() const { return write_done != nullptr; }
  void finish_write() {
    asio::post(executor, [done = std::exchange(write_done, nullptr)] { done({}, 0); });
  }
  void feed() {
    if (!read_done || (arrived.empty() && !ended)) return;
    const size_t n = std::min(arrived.size(), room.size());
    std::memcpy(room.data(), arrived.data(), n);
    arrived.erase(0, n);
    const error_code ec = n > 0 ? error_code() : error_code(asio::error::eof);
    asio::post(executor, [done = std::exchange(read_done, nullptr), ec, n] { done(ec, n); });
  }
  void close() {
    closed = true;
    for (auto* done : {&read_done, &write_done})
      if (*done)
        asio::post(executor,
                   [done = std::exchange(*done, nullptr)] { done(asio::error::operation_aborted, 0); });
    refuse();
  }

  asio::any_io_executor executor;
  std::string written;       // by the server; also what the client has not taken yet
  bool slow_reader = false;  // writes wait for finish_write()
  bool closed = false;       // by the server

  std::string arrived;
  bool ended = false, left = false;
  asio::mutable_buffer room;
  Transport::Done read_done, write_done;
  std::function<void()> reset_seen;
};

class LineTransport final : public Transport {
 public:
  explicit LineTransport(std::shared_ptr<Line> line) : line_(std::move(line)) {}
  asio::any_io_executor executor() override { return line_->executor; }
  void handshake(std::function<void(error_code)> done) override { done({}); }
  void read_some(asio::mutable_buffer buffer, Done done) override {
    line_->room = buffer;
    line_->read_done = std::move(done);
    line_->feed();
  }
  void watch_reset(std::function<void()> done) override {
    line_->reset_seen = std::move(done);
    if (line_->left && line_->writing()) line_->refuse();
  }
  void write(asio::const_buffer buffer, Done done) override {
    line_->written.append(static_cast<const char*>(buffer.data()), buffer.size());
    line_->write_done = std::move(done);
    if (!line_->slow_reader) line_->finish_write();
    if (line_->left) line_->refuse();
  }
  void shutdown(std::function<void()> done) override { done(); }
  void close() override { line_->close(); }

 private:
  std::shared_ptr<Line> line_;
};

/// One token per character.
class CharTokenizer : public FakeTokenizer {
 public:
  CharTokenizer() : FakeTokenizer(100) {}
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions&) const override {
    return std::vector<int32_t>(text.size(), 9);
  }
};

/// Answers when the test says so.
class HandEngine final : public Engine {
 public:
  Result<uint64_t> submit(Request, EventSink sink) override {
    const std::lock_guard lock(mutex_);
    sinks_.push_back(std::move(sink));
    return sinks_.size() - 1;
  }
  void cancel(uint64_t) override { ++cancelled; }
  void stop(std::chrono::milliseconds) override {}
  EngineStats stats() const override { return {}; }
  int64_t context() const override { return 1 << 20; }
  const ModelConfig& config() const override { return model_.config(); }
  const Tokenizer& tokenizer() const override { return tokenizer_; }

  size_t requests() const {
    const std::lock_guard lock(mutex_);
    return sinks_.size();
  }
  void say(size_t request, const std::string& text) { sink(request)(Delta{text, {}, 1}); }
  void finish(size_t request) { sink(request)(Finish{}); }

  std::atomic<int> cancelled = 0;

 private:
  EventSink sink(size_t request) const {
    const std::lock_guard lock(mutex_);
    return sinks_.at(request);
  }

  FakeModel model_{100, 1 << 20};
  CharTokenizer tokenizer_;
  mutable std::mutex mutex_;
  std::vector<EventSink> sinks_;
};

class OneModel final : public ModelHost {
 public:
  OneModel() : model_(std::make_shared<ServedModel>()) {
    auto engine = std::make_unique<HandEngine>();
    this->engine = engine.get();
    model_->id = "hand";
    model_->tokenizer = std::make_shared<CharTokenizer>();
    model_->engine = std::move(engine);
  }
  std::vector<ModelStatus> status() const override { return {{.id = "hand", .state = ModelState::ready}}; }
  Result<std::shared_ptr<ServedModel>> get(std::string_view) override { return model_; }
  Result<ModelStatus> status_of(std::string_view) const override { return status().front(); }
  uint64_t watch(std::function<void()>) override { return 0; }
  void unwatch(uint64_t) override {}
  EngineStats totals() const override { return {}; }
  void stop(std::chrono::milliseconds) override {}

  HandEngine* engine;

 private:
  std::shared_ptr<ServedModel> model_;
};

class ConnectionTest : public ::testing::Test {
 protected:
  struct Peer {
    std::shared_ptr<Line> line;
    std::shared_ptr<Connection> connection;
  };

  /// Nothing here ends by time.
  static ServerLimits patient() {
    return {.header_timeout = 1h,
            .body_timeout = 1h,
            .idle_timeout = 1h,
            .write_timeout = 1h,
            .ping_interval = 1h,
            .probe_interval = 1h,
            .linger = 1h};
  }
  void begin(const ServerLimits& limits) {
    static const bool quiet = (log::init(log::Format::pretty, log::Level::off), true);
    (void)quiet;
    state_.emplace(config_, host_, *metrics_, limits, 1);
  }
  void TearDown() override {
    for (const Peer& peer : peers_) peer.connection->kill();
    EXPECT_TRUE(until([&] { return ended_ == peers_.size(); })) << "a connection does not end";
    state_->workers.stop();
    state_->workers.join();
    peers_.clear();
  }

  std::shared_ptr<Line> connect() {
    auto line = std::make_shared<Line>(io_.get_executor());
    auto connection = std::make_shared<Connection>(*state_, std::make_unique<LineTransport>(line), "test");
    connection->start(false, [this] { ++ended_; });
    peers_.push_back({line, connection});
    return line;
  }
  /// Until the latch is counted down. The worker holds it too, for it may still be waking up from it when the
  /// test is over.
  std::shared_ptr<std::latch> occupy_worker() {
    auto busy = std::make_shared<std::latch>(1);
    asio::post(state_->workers, [busy] { busy->wait(); });
    return busy;
  }
  /// Until nothing is left to do at once.
  void settle() {
    io_.restart();
    io_.poll();
  }
  template <class Condition>
  bool until(const Condition& condition) {
    for (const auto end = std::chrono::steady_clock::now() + 60s; std::chrono::steady_clock::now() < end;) {
      settle();
      if (condition()) return true;
      std::this_thread::sleep_for(1ms);
    }
    return false;
  }
  static int status(const Line& line) {
    return line.written.size() < 12 ? 0 : std::stoi(line.written.substr(9, 3));
  }
  /// A request that gets past the body's room and no further: 400, or 503 for want of room.
  int probe(size_t bytes) {
    const auto line = connect();
    line->send(post_text("/api/generate", std::string(bytes, ' ')));
    EXPECT_TRUE(until([&] { return !line->written.empty(); }));
    return status(*line);
  }
  HandEngine& engine() { return *host_.engine; }

  const Config config_;
  OneModel host_;
  const std::unique_ptr<Metrics> metrics_ = Metrics::create();
  std::optional<ServerState> state_;
  asio::io_context io_;
  std::vector<Peer> peers_;
  size_t ended_ = 0;
};

const std::string kAsk = R"({"prompt":"x"})";

/// The wake of an event that comes during a write is spent inside the write.
TEST_F(ConnectionTest, EventsThatComeDuringAWriteFollowIt) {
  begin(patient());
  const auto line = connect();
  line->send(post_text("/api/generate/stream", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  line->slow_reader = true;
  engine().say(0, "one");
  ASSERT_TRUE(until([&] { return line->writing(); }));
  engine().say(0, "two");
  settle();  // the write is still under way
  engine().say(0, "three");
  settle();
  EXPECT_EQ(line->written.find("two"), std::string::npos);
  line->finish_write();
  settle();
  ASSERT_TRUE(line->writing());
  EXPECT_NE(line->written.find("two"), std::string::npos);
  EXPECT_NE(line->written.find("three"), std::string::npos);
  engine().finish(0);
  settle();
  line->finish_write();
  settle();
  EXPECT_TRUE(line->written.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n")) << line->written;
}

TEST_F(ConnectionTest, AStopDuringAWriteIsSeenAfterIt) {
  begin(patient());
  const auto line = connect();
  line->send(post_text("/api/generate/stream", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  line->slow_reader = true;
  engine().say(0, "one");
  ASSERT_TRUE(until([&] { return line->writing(); }));
  state_->aborting = true;
  peers_[0].connection->poke();
  settle();
  line->finish_write();
  settle();
  EXPECT_NE(line->written.find("the server is stopping"), std::string::npos) << line->written;
  EXPECT_EQ(engine().cancelled, 1);
}

TEST_F(ConnectionTest, AClientThatLeavesDuringAWriteIsForgotten) {
  begin(patient());
  const auto line = connect();
  line->send(post_text("/api/generate/stream", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  line->slow_reader = true;
  engine().say(0, "one");
  ASSERT_TRUE(until([&] { return line->writing(); }));
  line->leave();
  settle();
  EXPECT_TRUE(line->closed);
  EXPECT_EQ(engine().cancelled, 1);
  EXPECT_EQ(ended_, 1u);
}

/// It is told what every answer begins with: once, and no more than that.
TEST_F(ConnectionTest, AClientThatHasClosedItsSideIsProbed) {
  ServerLimits limits = patient();
  limits.probe_interval = 1ms;
  begin(limits);
  for (const std::string path : {"/api/generate", "/api/generate/stream"}) {
    const size_t request = engine().requests();
    const auto line = connect();
    line->send(post_text(path, kAsk));
    ASSERT_TRUE(until([&] { return engine().requests() == request + 1; }));
    settle();
    EXPECT_EQ(line->written, "");
    line->half_close();
    EXPECT_TRUE(until([&] { return line->written == "HTTP/1.1 "; })) << line->written;
    EXPECT_EQ(ended_, request) << "it is not given up";
    engine().say(request, "one");
    engine().finish(request);
    EXPECT_TRUE(until([&] { return ended_ == peers_.size(); }));
    EXPECT_TRUE(line->written.starts_with("HTTP/1.1 200 OK\r\n")) << line->written;
  }
}

/// Nothing may be said for long in a stream, too.
TEST_F(ConnectionTest, AStreamIsProbedWithComments) {
  ServerLimits limits = patient();
  limits.probe_interval = 1ms;
  begin(limits);
  const auto line = connect();
  line->send(post_text("/api/generate/stream", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  engine().say(0, "one");
  settle();
  line->half_close();
  EXPECT_TRUE(until([&] { return line->written.find(": ping\n\n") != std::string::npos; }));
  EXPECT_EQ(engine().cancelled, 0);
  line->leave();
  EXPECT_TRUE(until([&] { return ended_ == 1; }));
  EXPECT_EQ(engine().cancelled, 1);
}

/// What relays a connection takes the first bytes without a client to give them to.
TEST_F(ConnectionTest, AClientBehindARelayIsForgottenToo) {
  ServerLimits limits = patient();
  limits.probe_interval = 1ms;
  begin(limits);
  const auto line = connect();
  line->send(post_text("/api/generate", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  line->half_close();
  ASSERT_TRUE(until([&] { return line->written.size() >= 2; }));
  line->leave();
  EXPECT_TRUE(until([&] { return ended_ == 1; }));
  EXPECT_EQ(engine().cancelled, 1);
}

TEST_F(ConnectionTest, AReaderThatIsTooSlowIsForgotten) {
  ServerLimits limits = patient();
  limits.stream_bytes = 2000;
  begin(limits);
  const auto line = connect();
  line->send(post_text("/api/generate/stream", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  line->slow_reader = true;
  engine().say(0, "one");
  ASSERT_TRUE(until([&] { return line->writing(); }));
  for (int i = 0; i < 100; ++i) engine().say(0, "more");
  settle();
  EXPECT_TRUE(line->closed);
  EXPECT_EQ(engine().cancelled, 1);
}

/// Its reader waits for all of it: an I/O thread that is late loses nothing.
TEST_F(ConnectionTest, AWholeAnswerMayWaitHoweverLongItIs) {
  ServerLimits limits = patient();
  limits.stream_bytes = 2000;
  begin(limits);
  const auto line = connect();
  line->send(post_text("/api/generate", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  for (int i = 0; i < 100; ++i) engine().say(0, "more");
  engine().finish(0);
  settle();
  EXPECT_EQ(status(*line), 200);
  EXPECT_EQ(std::ranges::count(line->written, 'm'), 101) << "and one in the name of a field";
}

TEST_F(ConnectionTest, AWriteThatTakesTooLongEndsTheConnection) {
  ServerLimits limits = patient();
  limits.write_timeout = 1ms;
  begin(limits);
  const auto line = connect();
  line->slow_reader = true;
  line->send(get_text("/health/live"));
  EXPECT_TRUE(until([&] { return ended_ == 1; }));
  EXPECT_TRUE(line->closed);
}

TEST_F(ConnectionTest, ASilentStreamIsPinged) {
  ServerLimits limits = patient();
  limits.ping_interval = 1ms;
  begin(limits);
  const auto line = connect();
  line->send(post_text("/api/generate/stream", kAsk));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  engine().say(0, "one");
  EXPECT_TRUE(until([&] { return line->written.find(": ping\n\n") != std::string::npos; }));
  engine().finish(0);
  EXPECT_TRUE(until([&] { return line->written.ends_with("0\r\n\r\n"); }));
}

TEST_F(ConnectionTest, AllBodiesTogetherAreBounded) {
  ServerLimits limits = patient();
  limits.all_body_bytes = 4000;
  begin(limits);
  const auto holder = connect();
  const std::string body = std::string(3500 - kAsk.size(), ' ') + kAsk;
  const std::string request = post_text("/api/generate/stream", body);
  holder->send(request.substr(0, request.size() - 500));
  settle();
  EXPECT_EQ(probe(1500), 503);
  EXPECT_NE(peers_.back().line->written.find("Retry-After: "), std::string::npos);
  EXPECT_EQ(probe(1000), 400) << "what was refused has taken no room";
  holder->send(request.substr(request.size() - 500));
  ASSERT_TRUE(until([&] { return engine().requests() == 1; }));
  engine().say(0, "one");
  ASSERT_TRUE(until([&] { return !holder->written.empty(); }));
  EXPECT_EQ(probe(4000), 400) << "an answer under way needs no room for its request";
  engine().finish(0);
  settle();
  EXPECT_EQ(status(*holder), 200);
  EXPECT_EQ(probe(4001), 503);
}

TEST_F(ConnectionTest, LargeAnswersToSlowReadersAreBounded) {
  ServerLimits limits = patient();
  limits.all_body_bytes = 250000;
  begin(limits);
  const std::string ask = post_text("/tokenize", dump({{"content", std::string(50000, 'e')}}));  // 100 kB
  std::vector<std::shared_ptr<Line>> readers;
  for (int i = 0; i < 3; ++i) {
    readers.push_back(connect());
    readers.back()->slow_reader = true;
    readers.back()->send(ask);
    ASSERT_TRUE(until([&] { return readers.back()->writing(); }));
  }
  EXPECT_EQ(status(*readers[0]), 200);
  EXPECT_EQ(status(*readers[1]), 200);
  EXPECT_EQ(status(*readers[2]), 503);
  EXPECT_EQ(probe(10), 400) << "small answers always go out";
  readers[0]->slow_reader = false;
  readers[0]->finish_write();
  settle();
  const auto next = connect();
  next->send(ask);
  ASSERT_TRUE(until([&] { return !next->written.empty(); }));
  EXPECT_EQ(status(*next), 200);
}

TEST_F(ConnectionTest, HealthDoesNotWaitForWorkers) {
  begin(patient());
  const auto busy = occupy_worker();
  const auto waiting = connect(), health = connect();
  waiting->send(post_text("/tokenize", R"({"content":"x"})"));
  health->send(get_text("/health/live") + get_text("/health/ready"));
  settle();
  EXPECT_EQ(waiting->written, "");
  EXPECT_EQ(status(*health), 200);
  EXPECT_NE(health->written.find(R"("ready":true)"), std::string::npos);
  busy->count_down();
  EXPECT_TRUE(until([&] { return status(*waiting) == 200; }));
}

TEST_F(ConnectionTest, NothingIsDoneForAClientThatLeftBeforeItsTurn) {
  begin(patient());
  const auto busy = occupy_worker();
  const auto line = connect();
  line->send(post_text("/api/generate", kAsk));
  settle();
  line->leave();
  settle();
  EXPECT_EQ(ended_, 1u);
  busy->count_down();
  const auto next = connect();  // its turn comes after
  next->send(post_text("/tokenize", R"({"content":"x"})"));
  ASSERT_TRUE(until([&] { return status(*next) == 200; }));
  EXPECT_EQ(engine().requests(), 0u);
}

TEST_F(ConnectionTest, AStopWhileAHandlerWorksIsAnswered) {
  begin(patient());
  const auto busy = occupy_worker();
  const auto line = connect();
  line->send(post_text("/api/generate", kAsk));
  settle();
  state_->aborting = true;
  peers_[0].connection->poke();
  settle();
  EXPECT_EQ(status(*line), 503);
  EXPECT_EQ(ended_, 1u);
  state_->workers.stop();  // the handler never runs, and is destroyed with the workers: last of all
  busy->count_down();
}

/// Closing the line at once would reset it, and the client might never read the answer.
TEST_F(ConnectionTest, LastWordsAreLeftTimeWhenTheServerStops) {
  begin(patient());
  const auto line = connect(), idle = connect();
  settle();
  state_->app.draining = true;
  line->send(get_text("/health/live"));
  settle();
  state_->closing = true;
  for (const Peer& peer : peers_) peer.connection->poke();
  line->send("still talking");
  settle();
  EXPECT_NE(line->written.find("Connection: close"), std::string::npos);
  EXPECT_FALSE(line->closed);
  EXPECT_EQ(line->arrived, "") << "it is read until the client closes";
  line->leave();
  idle->leave();
  settle();
  EXPECT_EQ(ended_, 2u);
}

}  // namespace
}  // namespace quern::testing
