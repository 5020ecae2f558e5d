// One client: reads requests, hands them to handlers, writes answers, and notices when the client leaves.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "http/access.h"
#include "http/parser.h"
#include "http/router.h"
#include "http/server_state.h"
#include "http/transport.h"

namespace quern {

/// One coroutine runs it, on the transport's executor (a strand). Reads and writes are started from there and
/// complete by waking it, so that it can wait for several things at once: bytes, an event of the engine, a
/// deadline.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerState& server, std::unique_ptr<Transport> transport, std::string peer);
  ~Connection();

  /// Serves until either side ends it. `refused`: answers 503 at once, for the server is full. `on_end` is
  /// called once, at the end.
  void start(bool refused, std::function<void()> on_end);
  /// From any thread: look again at what the server wants.
  void poke();
  /// From any thread: end now.
  void kill();

 private:
  using Clock = ServerState::Clock;
  template <class T>
  using Awaitable = boost::asio::awaitable<T>;
  enum class Fill { data, ended, timeout, closing };
  /// One request and what is known of its answer.
  struct Exchange {
    std::shared_ptr<HttpRequest> request;
    RouteMatch match;
    bool keep_alive = false;
    Clock::time_point started = Clock::now();
    int status = 0;
    bool streaming = false;
    size_t begun = 0;             // bytes of the head that have been sent ahead
    Clock::time_point last_sent;  // of any part of the answer
    Answer* answer = nullptr;     // for requests that an engine works on
    ServerState& server;

    explicit Exchange(ServerState& state) : server(state) { server.request_begins(); }
    Exchange(const Exchange&) = delete;
    ~Exchange() { server.request_ends(); }
    ErrorStyle style() const { return match.route ? match.route->style : style_of(request->path); }
  };

  Awaitable<void> serve(bool refused);
  Awaitable<bool> handshake();
  Awaitable<bool> serve_one();
  Awaitable<bool> read_head(RequestParser& parser);
  Awaitable<bool> read_body(Exchange& exchange, RequestParser& parser);
  std::optional<HttpResponse> refuse(Exchange& exchange);
  HttpResponse answer_options(const RouteMatch& match, const HttpRequest& request);
  Awaitable<bool> respond(Exchange& exchange, HttpResponse response);
  Awaitable<bool> respond_early(const ApiError& error, const HttpRequest& request);
  std::string head(const Exchange& exchange, int status, std::string_view content_type,
                   const Headers& more) const;
  void log(const Exchange& exchange) const;
  bool keep_body_room(size_t bytes);
  void drop_body(HttpRequest& request);

  // connection_answer.cc
  Awaitable<bool> dispatch(Exchange& exchange);
  /// The handler's result; empty when there is nobody to answer any more (or that has been answered).
  Awaitable<std::optional<Parsed<Reply>>> run_handler(Exchange& exchange);
  /// As run_handler, but stays until the model that the request names is there, as long as the queue timeout.
  Awaitable<std::optional<Parsed<Reply>>> run_with_model(Exchange& exchange);
  Awaitable<bool> run_answer(Exchange& exchange, Answer& answer);
  /// False when it cannot be sent to its end.
  Awaitable<bool> send_answer(Exchange& exchange, Answer& answer);
  Awaitable<bool> send_events(Exchange& exchange, std::string_view events, bool last);
  /// Until woken or the deadline; sends a ping when it is time.
  Awaitable<void> stand_by(Exchange& exchange, Clock::time_point deadline);
  Clock::time_point next_ping(const Exchange& exchange) const;
  Awaitable<void> ping(Exchange& exchange);

  // connection_io.cc
  void start_read();
  Awaitable<Fill> fill(Clock::time_point deadline, bool idle);
  /// `stream`: gives up when its reader has gone or is too slow; else null.
  Awaitable<bool> write(std::string data, const Generation* stream = nullptr);
  Awaitable<void> linger();
  /// True when woken, false at the deadline.
  Awaitable<bool> wait(Clock::time_point deadline);
  void wake();
  void end_read(boost::system::error_code why);
  /// Nobody reads what is written.
  bool gone() const { return left_ || write_failed_ || closed_; }

  ServerState& server_;
  const ServerLimits& limits_;
  std::unique_ptr<Transport> transport_;
  std::string peer_;
  boost::asio::steady_timer timer_;
  std::function<void()> on_end_;
  bool woken_ = false;

  std::array<char, 8192> staging_;  // what a read under way writes to
  std::string input_;               // read, not yet parsed
  bool reading_ = false;
  bool read_ended_ = false;  // the client sends no more, or sent too much ahead
  bool left_ = false;        // and reads no more, as far as can be told

  std::string write_buffer_;
  bool writing_ = false;
  bool write_failed_ = false;
  bool closed_ = false;
  size_t body_room_ = 0;  // taken from the server's
};

}  // namespace quern
