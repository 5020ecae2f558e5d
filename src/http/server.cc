#include "http/server.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "core/log.h"
#include "http/connection.h"
#include "http/coroutines.h"
#include "http/server_state.h"
#include "http/transport.h"

namespace quern {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using namespace std::chrono_literals;

constexpr int kIoThreads = 2;
/// Handlers only tokenize and render; the engine does the work.
size_t worker_threads() { return std::clamp(std::thread::hardware_concurrency(), 2u, 8u); }
/// Connections beyond the limit that get a 503 at the same time; those beyond are just closed.
constexpr size_t kRefusals = 64;

class ServerImpl final : public Server {
 public:
  ServerImpl(const Config& config, ModelHost& host, Metrics& metrics, const ServerLimits& limits)
      : state_(config, host, metrics, limits, worker_threads()),
        acceptor_(asio::make_strand(io_)),
        grace_timer_(acceptor_.get_executor()) {
    state_.app.started =
        std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
            .count();
    state_.on_idle = [this] {
      if (state_.app.draining) asio::post(acceptor_.get_executor(), [this] { close_if_idle(); });
    };
  }

  ~ServerImpl() override {
    state_.on_idle = nullptr;
    state_.workers.stop();
    state_.workers.join();
  }

  Result<> listen(const Config& config) {
    if (config.tls) {
      QUERN_TRY(tls_, TlsContext::load(config.tls_cert, config.tls_key));
    }
    error_code ec;
    tcp::resolver resolver(io_);
    const auto found =
        resolver.resolve(config.hostname, std::to_string(config.port), tcp::resolver::passive, ec);
    if (ec || found.empty())
      return fail(ErrorCode::io, "LLM_INFERENCE_HOSTNAME: {}: not an address of this machine ({})",
                  config.hostname, ec.message());
    // "localhost" is two addresses, and clients mostly try 127.0.0.1.
    const auto v4 = std::find_if(found.begin(), found.end(),
                                 [](const auto& entry) { return entry.endpoint().address().is_v4(); });
    const tcp::endpoint endpoint = v4 != found.end() ? *v4 : *found.begin();
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(1024, ec);
    if (ec)
      return fail(ErrorCode::io,
                  "cannot listen on {}:{}: {}: choose another with LLM_INFERENCE_HOSTNAME and "
                  "LLM_INFERENCE_PORT",
                  config.hostname, config.port, ec.message());
    port_ = acceptor_.local_endpoint(ec).port();
    return {};
  }

  uint16_t port() const override { return port_; }

  void run() override {
    asio::co_spawn(
        acceptor_.get_executor(), [this] { return accept_all(); }, asio::detached);
    std::vector<std::jthread> threads;
    for (int i = 0; i < kIoThreads; ++i) threads.emplace_back([this] { run_io(); });
    threads.clear();  // joins: all connections have ended
    state_.workers.stop();
    state_.workers.join();
  }

  void stop(std::chrono::milliseconds grace) override {
    asio::post(acceptor_.get_executor(), [this, grace] { drain(grace); });
  }

 private:
  /// Connections report their own failures; what escapes here is a handler without memory.
  void run_io() {
    for (;;) {
      try {
        io_.run();
        return;
      } catch (const std::exception& e) {
        log::error("an I/O handler failed", {{"error", e.what()}});
      }
    }
  }

  asio::awaitable<void> accept_all() {
    while (acceptor_.is_open()) {
      auto [ec, socket] =
          co_await acceptor_.async_accept(asio::make_strand(io_), asio::as_tuple(asio::use_awaitable));
      if (!acceptor_.is_open()) break;
      const std::string problem = ec ? ec.message() : add(std::move(socket));
      if (problem.empty()) continue;
      log::warn("cannot accept a connection", {{"error", problem}});
      // Out of descriptors, most likely: some time must pass before another try can succeed.
      asio::steady_timer pause(acceptor_.get_executor(), 100ms);
      co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
    }
  }

  /// What went wrong, or "".
  std::string add(tcp::socket socket) {
    try {
      start(std::move(socket));
      return {};
    } catch (const std::exception& e) {  // memory, most likely: the server goes on
      return e.what();
    }
  }

  void start(tcp::socket socket) {
    error_code ec;
    const auto peer = socket.remote_endpoint(ec);
    const std::string address = ec ? "?" : fmt::format("{}:{}", peer.address().to_string(), peer.port());
    socket.set_option(tcp::no_delay(true), ec);
    const size_t limit = state_.app.limits.connections;
    std::unique_lock lock(mutex_);
    const bool refused = connections_.size() >= limit;
    if (connections_.size() >= limit + kRefusals || (refused && tls_)) return;
    auto transport = tls_ ? tls_->wrap(std::move(socket)) : plain_transport(std::move(socket));
    auto connection = std::make_shared<Connection>(state_, std::move(transport), address);
    const uint64_t id = next_id_++;
    connections_[id] = connection;
    lock.unlock();
    connection->start(refused, [this, id] {
      const std::lock_guard guard(mutex_);
      connections_.erase(id);
    });
  }

  /// On the acceptor's strand, as all that follows.
  void drain(std::chrono::milliseconds grace) {
    const bool first = !state_.app.draining.exchange(true);
    if (first) {
      error_code ignored;
      acceptor_.close(ignored);
      log::info("stopping", {{"active_requests", state_.active()}});
      for_each([](Connection& connection) { connection.poke(); });  // some wait for a model: no longer
    }
    if (state_.aborting) return;
    close_if_idle();
    if (state_.closing && state_.active() == 0) return;
    const auto deadline = ServerState::Clock::now() + grace;
    if (!first && grace_timer_.expiry() <= deadline) return;
    grace_timer_.expires_at(deadline);
    grace_timer_.async_wait([this](error_code ec) {
      if (!ec) abort_all();
    });
  }

  void close_if_idle() {
    if (state_.active() != 0) return;
    state_.closing = true;
    grace_timer_.cancel();
    for_each([](Connection& connection) { connection.poke(); });
  }

  void abort_all() {
    if (state_.active() > 0) log::warn("the grace period is over", {{"active_requests", state_.active()}});
    state_.closing = true;
    state_.aborting = true;
    for_each([](Connection& connection) { connection.poke(); });
    grace_timer_.expires_after(state_.app.limits.linger);
    grace_timer_.async_wait([this](error_code ec) {
      if (!ec) for_each([](Connection& connection) { connection.kill(); });
    });
  }

  template <class Action>
  void for_each(const Action& action) {
    std::vector<std::shared_ptr<Connection>> alive;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [id, connection] : connections_)
        if (auto strong = connection.lock()) alive.push_back(std::move(strong));
    }
    for (const auto& connection : alive) action(*connection);
  }

  ServerState state_;
  std::unique_ptr<TlsContext> tls_;
  asio::io_context io_{kIoThreads};
  tcp::acceptor acceptor_;
  asio::steady_timer grace_timer_;
  uint16_t port_ = 0;
  std::mutex mutex_;
  std::unordered_map<uint64_t, std::weak_ptr<Connection>> connections_;  // guarded by mutex_
  uint64_t next_id_ = 0;                                                 // guarded by mutex_
};

}  // namespace

Result<std::unique_ptr<Server>> Server::create(const Config& config, ModelHost& host, Metrics& metrics,
                                               const ServerLimits& limits) {
  auto server = std::make_unique<ServerImpl>(config, host, metrics, limits);
  QUERN_TRY_VOID(server->listen(config));
  return server;
}

}  // namespace quern
