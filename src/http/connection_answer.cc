// The middle of a connection: a request's handler, its model and its engine at work, and what they have to
// say.
#include "core/log.h"
#include "http/connection.h"
#include "http/coroutines.h"

namespace quern {
namespace {

namespace asio = boost::asio;

constexpr auto kForever = ServerState::Clock::time_point::max();
constexpr int kClientLeft = 499;  // in logs and metrics, as nginx has it
/// What every answer begins with, and so may be sent, byte by byte, before there is one.
constexpr std::string_view kAnyHead = "HTTP/1.1 ";

/// Runs a handler; whatever it throws (memory, a library) becomes a 500.
Parsed<Reply> call(const Route& route, App& app, const HttpRequest& request) {
  try {
    return route.handler(app, request);
  } catch (const std::bad_alloc&) {
    return fail(ApiError{ApiErrorKind::unavailable, "out of memory", {}, 5});
  } catch (const std::exception& e) {
    log::error("handler failed", {{"request_id", request.id}, {"route", route.path}, {"error", e.what()}});
  }
  return fail(ApiError{ApiErrorKind::internal, "an internal error; the server's log has more"});
}

/// A place among the requests that wait for their model, and word of when to look again.
class ModelWait {
 public:
  ModelWait(App& app, std::function<void()> wake)
      : app_(app), changed_(std::make_shared<std::atomic<bool>>(false)) {
    ++app_.waiting;
    watcher_ = app_.host.watch([changed = changed_, wake = std::move(wake)] {
      *changed = true;
      wake();
    });
  }
  ModelWait(const ModelWait&) = delete;
  ~ModelWait() {
    app_.host.unwatch(watcher_);
    --app_.waiting;
  }
  /// Whether something has changed since the last call.
  bool changed() { return changed_->exchange(false); }

 private:
  App& app_;
  std::shared_ptr<std::atomic<bool>> changed_;
  uint64_t watcher_ = 0;
};

/// What the events that have come since the last call make of an answer, or the server's end does.
Output new_output(Answer& answer, bool aborting) {
  Output out;
  for (auto& item : answer.generation().take()) answer.on_event(std::move(item), out);
  if (!out.done && aborting) answer.fail(stopping(), out);
  return out;
}

}  // namespace

asio::awaitable<std::optional<Parsed<Reply>>> Connection::run_handler(Exchange& exchange) {
  const Route& route = *exchange.match.route;
  if (route.immediate) co_return call(route, server_.app, *exchange.request);
  struct Job {
    std::optional<Parsed<Reply>> reply;
    std::atomic<bool> abandoned{false};  // nobody waits for the reply any more
  };
  auto job = std::make_shared<Job>();
  // A job that a stopped server never runs is destroyed after what a connection stands on: it must not own
  // one.
  asio::post(server_.workers,
             [weak = weak_from_this(), &app = server_.app, request = exchange.request, &route, job] {
               if (job->abandoned) return;
               auto made = std::make_shared<Parsed<Reply>>(call(route, app, *request));
               const auto self = weak.lock();
               if (!self) return;
               asio::post(self->transport_->executor(), [self, job, made] {
                 job->reply = std::move(*made);
                 self->wake();
               });
             });
  while (!job->reply) {
    if (gone()) {
      job->abandoned = true;
      co_return std::nullopt;
    }
    if (server_.aborting) {  // the handler may still read the request: it stays as it is
      job->abandoned = true;
      exchange.keep_alive = false;
      co_await respond(exchange, HttpResponse::error(stopping(), exchange.style()));
      co_return std::nullopt;
    }
    co_await stand_by(exchange, kForever);
  }
  co_return std::move(job->reply);
}

asio::awaitable<std::optional<Parsed<Reply>>> Connection::run_with_model(Exchange& exchange) {
  App& app = server_.app;
  auto reply = co_await run_handler(exchange);
  const auto coming = [&] { return reply && !*reply && reply->error().kind == ApiErrorKind::model_coming; };
  if (!coming()) co_return reply;
  if (app.waiting >= app.config.max_queued_requests) co_return reply;
  const auto deadline = exchange.started + std::chrono::milliseconds(app.config.queue_timeout_ms);
  ModelWait waiting(app, [weak = weak_from_this()] {
    if (auto self = weak.lock()) self->poke();
  });
  // Once more at once: it may have come before the wait began.
  for (bool look = true; Clock::now() < deadline; look = waiting.changed()) {
    if (look) {
      reply = co_await run_handler(exchange);
      if (!coming()) co_return reply;
      continue;
    }
    if (gone()) co_return std::nullopt;
    if (app.draining) co_return fail(stopping());
    co_await stand_by(exchange, deadline);
  }
  co_return reply;
}

asio::awaitable<bool> Connection::dispatch(Exchange& exchange) {
  auto reply = co_await run_with_model(exchange);
  if (!reply) {
    if (exchange.status == 0) {
      exchange.status = kClientLeft;
      log(exchange);
    }
    co_return false;
  }
  drop_body(*exchange.request);
  if (!*reply) {
    const bool sent = co_await respond(exchange, HttpResponse::error(reply->error(), exchange.style()));
    co_return sent;
  }
  if (auto* response = std::get_if<HttpResponse>(&**reply)) {
    const bool sent = co_await respond(exchange, std::move(*response));
    co_return sent;
  }
  const std::unique_ptr<Answer> answer = std::move(std::get<std::unique_ptr<Answer>>(**reply));
  const bool sent = co_await run_answer(exchange, *answer);
  co_return sent;
}

/// Sends an answer as its events come; the engine stops when it cannot be sent.
asio::awaitable<bool> Connection::run_answer(Exchange& exchange, Answer& answer) {
  Generation& generation = answer.generation();
  exchange.answer = &answer;
  generation.set_wake([weak = weak_from_this()] {
    if (auto self = weak.lock()) self->poke();
  });
  const bool sent = co_await send_answer(exchange, answer);
  generation.set_wake(nullptr);
  if (!sent) generation.cancel();
  if (!sent && exchange.status == 0) exchange.status = kClientLeft;
  if (exchange.status == kClientLeft || exchange.streaming) log(exchange);
  co_return sent;
}

/// What is new is looked for again after every write, for a write's own wait takes the wake of events that
/// come meanwhile.
asio::awaitable<bool> Connection::send_answer(Exchange& exchange, Answer& answer) {
  while (!gone() && !answer.generation().overflowed()) {
    Output out = new_output(answer, server_.aborting);
    if (out.response) {
      const bool sent = co_await respond(exchange, std::move(*out.response));
      co_return sent;
    }
    if (out.stream.empty()) {
      co_await stand_by(exchange, kForever);
      continue;
    }
    const bool sent = co_await send_events(exchange, out.stream, out.done);
    if (!sent || out.done) co_return sent;
  }
  co_return false;
}

asio::awaitable<void> Connection::stand_by(Exchange& exchange, Clock::time_point deadline) {
  start_read();
  const auto ping_at = next_ping(exchange);
  co_await wait(std::min(deadline, ping_at));
  if (Clock::now() >= ping_at) co_await ping(exchange);
}

/// A stream that is silent for long is pinged, so that nobody on its way takes it for dead. A client that has
/// closed its side is pinged at once and often: the network's answer tells whether it has closed the other,
/// too. Where something relays the connection, only the second or third ping may tell.
Connection::Clock::time_point Connection::next_ping(const Exchange& exchange) const {
  if (!exchange.streaming && (!read_ended_ || exchange.begun == kAnyHead.size())) return kForever;
  return exchange.last_sent + (read_ended_ ? limits_.probe_interval : limits_.ping_interval);
}

asio::awaitable<void> Connection::ping(Exchange& exchange) {
  if (exchange.streaming) {
    co_await send_events(exchange, ": ping\n\n", false);
    co_return;
  }
  co_await write(std::string(1, kAnyHead[exchange.begun++]));
  exchange.last_sent = Clock::now();
}

/// The stream's head goes before its first events.
asio::awaitable<bool> Connection::send_events(Exchange& exchange, std::string_view events, bool last) {
  std::string data;
  const bool chunked = exchange.request->http11;
  if (!exchange.streaming) {
    exchange.streaming = true;
    exchange.status = 200;
    if (!chunked) exchange.keep_alive = false;
    data = head(exchange, 200, "text/event-stream; charset=utf-8",
                {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}});
    data += chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
  }
  if (chunked) data += fmt::format("{:x}\r\n", events.size());
  data += events;
  if (chunked) data += last ? "\r\n0\r\n\r\n" : "\r\n";
  const bool sent = co_await write(std::move(data), &exchange.answer->generation());
  exchange.last_sent = Clock::now();
  co_return sent;
}

}  // namespace quern
