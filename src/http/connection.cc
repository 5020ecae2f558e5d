#include "http/connection.h"

#include <fmt/ranges.h>

#include <cmath>
#include <ctime>

#include "core/log.h"
#include "http/coroutines.h"

namespace quern {
namespace {

namespace asio = boost::asio;

/// A request's body this small is read even when the answer is no, so that the connection can go on; an
/// answer this small is sent even when bodies take all room.
constexpr uint64_t kSmallBody = 64 << 10;

std::string_view reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 431:
      return "Request Header Fields Too Large";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Internal Server Error";
  }
}

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[40];
  return std::string(text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc));
}

}  // namespace

Connection::Connection(ServerState& server, std::unique_ptr<Transport> transport, std::string peer)
    : server_(server),
      limits_(server.app.limits),
      transport_(std::move(transport)),
      peer_(std::move(peer)),
      timer_(transport_->executor()) {}

Connection::~Connection() { server_.give_body_room(body_room_); }

void Connection::start(bool refused, std::function<void()> on_end) {
  on_end_ = std::move(on_end);
  asio::co_spawn(
      transport_->executor(), [self = shared_from_this(), refused] { return self->serve(refused); },
      [self = shared_from_this()](const std::exception_ptr& failure) {
        try {
          if (failure) std::rethrow_exception(failure);
        } catch (const std::exception& e) {
          log::error("connection failed", {{"client", self->peer_}, {"error", e.what()}});
        }
        self->transport_->close();
        self->on_end_();
      });
}

asio::awaitable<void> Connection::serve(bool refused) {
  const bool shaken = co_await handshake();
  if (!shaken) co_return;
  if (refused) {
    const ApiError error{ApiErrorKind::unavailable, "too many connections", {}, 1};
    const HttpRequest none{.path = "/"};
    co_await respond_early(error, none);
  } else {
    bool more = true;
    while (more) more = co_await serve_one();
  }
  co_await linger();
}

/// An answer to what is not a request, or not one that may go on.
asio::awaitable<bool> Connection::respond_early(const ApiError& error, const HttpRequest& request) {
  Exchange exchange(server_);
  exchange.request = std::make_shared<HttpRequest>(request);
  exchange.request->id = request_id(request);
  if (exchange.request->path.empty())
    exchange.request->path = request.target.substr(0, request.target.find('?'));
  const bool sent = co_await respond(exchange, HttpResponse::error(error, exchange.style()));
  co_return sent;
}

asio::awaitable<bool> Connection::read_head(RequestParser& parser) {
  const auto begun = Clock::now();
  auto deadline = begun + limits_.idle_timeout;
  for (bool first = true;; first = false) {
    size_t consumed = 0;
    const auto state = input_.empty() ? RequestParser::State::more : parser.feed(input_, consumed);
    input_.erase(0, consumed);
    if (state == RequestParser::State::head) co_return true;
    if (state == RequestParser::State::failed) {
      co_await respond_early(parser.error(), parser.request());
      co_return false;
    }
    const bool idle = input_.empty() && consumed == 0;
    if (!idle && first) deadline = Clock::now() + limits_.header_timeout;
    const Fill fill_result = co_await fill(deadline, true);
    if (idle && fill_result == Fill::data) deadline = Clock::now() + limits_.header_timeout;
    if (fill_result == Fill::data) continue;
    if (fill_result == Fill::timeout && !idle) {
      const ApiError error{ApiErrorKind::timeout, "the request's headers took too long"};
      co_await respond_early(error, parser.request());
    }
    co_return false;
  }
}

bool Connection::keep_body_room(size_t bytes) {
  if (bytes <= body_room_) return true;
  if (!server_.take_body_room(bytes - body_room_)) return false;
  body_room_ = bytes;
  return true;
}

asio::awaitable<bool> Connection::read_body(Exchange& exchange, RequestParser& parser) {
  const auto deadline = Clock::now() + limits_.body_timeout;
  std::optional<ApiError> error;
  while (!parser.done()) {
    size_t consumed = 0;
    const auto state = input_.empty() ? RequestParser::State::more : parser.feed(input_, consumed);
    input_.erase(0, consumed);
    if (state == RequestParser::State::failed) {
      error = parser.error();
    } else if (!keep_body_room(parser.request().body.size())) {
      error = {ApiErrorKind::unavailable, "too many large requests at once", {}, 2};
    } else if (state == RequestParser::State::more && !parser.done()) {
      const Fill result = co_await fill(deadline, false);
      if (result == Fill::data) continue;
      if (result != Fill::timeout) co_return false;
      error = {ApiErrorKind::timeout, "the request's body took too long"};
    }
    if (!error) continue;
    exchange.keep_alive = false;
    drop_body(parser.request());
    co_await respond(exchange, HttpResponse::error(*error, exchange.style()));
    co_return false;
  }
  exchange.request->body = std::move(parser.request().body);
  co_return true;
}

/// Nobody needs the body any more: there is room for others' before the client sees the answer, and while an
/// engine works on it.
void Connection::drop_body(HttpRequest& request) {
  std::string().swap(request.body);
  server_.give_body_room(std::exchange(body_room_, 0));
}

HttpResponse Connection::answer_options(const RouteMatch& match, const HttpRequest& request) {
  HttpResponse response;
  response.status = 204;
  response.headers.emplace_back("Allow", fmt::format("{}", fmt::join(match.allowed, ", ")));
  if (!request.header("access-control-request-method").empty())
    for (auto& header : preflight_headers(server_.app.config, request))
      response.headers.push_back(std::move(header));
  return response;
}

/// What can be answered from the headers alone: mostly refusals.
std::optional<HttpResponse> Connection::refuse(Exchange& exchange) {
  const HttpRequest& request = *exchange.request;
  const ErrorStyle style = exchange.style();
  if (request.method == "OPTIONS" && (!exchange.match.allowed.empty() || request.path == "*")) {
    if (request.path == "*") exchange.match.allowed = {"GET", "HEAD", "POST", "OPTIONS"};
    return answer_options(exchange.match, request);
  }
  if (!(exchange.match.route != nullptr && exchange.match.route->open) &&
      !has_key(server_.app.config, request)) {
    auto response = HttpResponse::error(
        {ApiErrorKind::unauthorized,
         "this server asks for an API key: send Authorization: Bearer KEY or X-Api-Key: KEY"},
        style);
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
    return response;
  }
  if (exchange.match.allowed.empty())
    return HttpResponse::error(
        {ApiErrorKind::not_found, fmt::format("{} {}: no such endpoint: did you mean {}?", request.method,
                                              request.path.substr(0, 200), nearest_route(request.path))},
        style);
  if (exchange.match.route == nullptr) {
    const std::string allowed = fmt::format("{}", fmt::join(exchange.match.allowed, ", "));
    auto response =
        HttpResponse::error({ApiErrorKind::method_not_allowed,
                             fmt::format("{} is not allowed for {}: use {}", request.method.substr(0, 40),
                                         request.path.substr(0, 200), allowed)},
                            style);
    response.headers.emplace_back("Allow", allowed);
    return response;
  }
  if (server_.app.draining && !exchange.match.route->open) return HttpResponse::error(stopping(), style);
  if (!exchange.match.route->fields.empty()) {
    if (auto checked = check_content_type(request); !checked)
      return HttpResponse::error(checked.error(), style);
  }
  return std::nullopt;
}

asio::awaitable<bool> Connection::serve_one() {
  server_.give_body_room(std::exchange(body_room_, 0));
  RequestParser parser(limits_);
  const bool got_head = co_await read_head(parser);
  if (!got_head) co_return false;

  const bool expects_continue = parser.expects_continue();
  Exchange exchange(server_);
  exchange.request = std::make_shared<HttpRequest>(std::move(parser.request()));
  HttpRequest& request = *exchange.request;
  request.id = request_id(request);
  exchange.match = find_route(request.method, request.path);
  request.param = exchange.match.id;
  exchange.keep_alive = parser.keep_alive() && !server_.app.draining;

  auto refusal = refuse(exchange);
  if (!parser.done()) {
    const bool small = !expects_continue && parser.content_length().value_or(kSmallBody + 1) <= kSmallBody;
    if (refusal && !small) {
      exchange.keep_alive = false;
      co_await respond(exchange, std::move(*refusal));
      co_return false;
    }
    if (expects_continue) {
      const bool told = co_await write("HTTP/1.1 100 Continue\r\n\r\n");
      if (!told) co_return false;
    }
    const bool read = co_await read_body(exchange, parser);
    if (!read) co_return false;
  }
  if (refusal) {
    drop_body(request);
    const bool sent = co_await respond(exchange, std::move(*refusal));
    co_return sent&& exchange.keep_alive;
  }
  const bool sent = co_await dispatch(exchange);
  co_return sent&& exchange.keep_alive;
}

std::string Connection::head(const Exchange& exchange, int status, std::string_view content_type,
                             const Headers& more) const {
  const HttpRequest& request = *exchange.request;
  std::string text = fmt::format("HTTP/1.1 {} {}\r\nDate: {}\r\nServer: quern\r\nX-Request-Id: {}\r\n",
                                 status, reason(status), http_date(), request.id);
  if (!content_type.empty()) text += fmt::format("Content-Type: {}\r\n", content_type);
  for (const auto& [name, value] : more) text += fmt::format("{}: {}\r\n", name, value);
  for (const auto& [name, value] : cors_headers(server_.app.config, request))
    text += fmt::format("{}: {}\r\n", name, value);
  text += exchange.keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  text.erase(0, exchange.begun);
  return text;
}

asio::awaitable<bool> Connection::respond(Exchange& exchange, HttpResponse response) {
  // A slow reader may take hours for a large answer, so that these are bounded as requests are.
  if (response.body.size() > kSmallBody && !keep_body_room(response.body.size()))
    response = HttpResponse::error({ApiErrorKind::unavailable, "too many large answers at once", {}, 2},
                                   exchange.style());
  exchange.status = response.status;
  if (server_.app.draining) exchange.keep_alive = false;
  const bool empty = response.status == 204;
  std::string data =
      head(exchange, response.status, empty ? std::string_view() : response.content_type, response.headers);
  if (!empty) data += fmt::format("Content-Length: {}\r\n", response.body.size());
  data += "\r\n";
  if (!empty && exchange.request->method != "HEAD") data += response.body;
  std::string().swap(response.body);
  const bool sent = co_await write(std::move(data));
  log(exchange);
  co_return sent;
}

void Connection::log(const Exchange& exchange) const {
  const HttpRequest& request = *exchange.request;
  const double seconds = std::chrono::duration<double>(Clock::now() - exchange.started).count();
  const Route* route = exchange.match.route;
  const std::string_view name = route != nullptr ? route->path : "unknown";
  server_.app.metrics.http_request(name, exchange.status, seconds);
  const bool quiet = route != nullptr && (route->open || route->path == "/metrics");
  log::write(quiet ? log::Level::debug : log::Level::info, "request",
             {{"request_id", request.id},
              {"client", peer_},
              {"method", std::string_view(request.method).substr(0, 40)},
              {"route", route != nullptr ? route->path : std::string_view(request.path).substr(0, 200)},
              {"status", exchange.status},
              {"ms", std::round(seconds * 1e4) / 10},
              {"prompt_tokens", exchange.answer != nullptr ? exchange.answer->prompt_tokens() : 0},
              {"tokens", exchange.answer != nullptr ? exchange.answer->generated_tokens() : 0}});
}

}  // namespace quern
