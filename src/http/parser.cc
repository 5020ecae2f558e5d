#include "http/parser.h"

#include <cctype>

#include "http/beast.h"

namespace quern {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;
using View = boost::beast::string_view;

/// The shortest end of a chunked body: so much always follows until it is done.
constexpr std::string_view kLastChunk = "0\r\n\r\n";

std::string_view std_view(View text) { return {text.data(), text.size()}; }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

class RequestParser::Impl final : public http::basic_parser<true> {
 public:
  explicit Impl(const ServerLimits& limits)
      : max_fields_(limits.header_fields), max_header_(limits.header_bytes) {
    header_limit(limits.header_bytes);
    body_limit(limits.body_bytes);
    max_body_ = limits.body_bytes;
  }

  State feed(std::string_view data, size_t& consumed) {
    consumed = 0;
    if (is_done()) return State::done;
    while (consumed < data.size()) {
      // Boost.Beast asserts, once it has seen the last chunk begin, that it is given all of it.
      if (is_header_done() && chunked() && data.size() - consumed < kLastChunk.size()) return State::more;
      const bool had_head = is_header_done();
      error_code ec;
      consumed += put(boost::asio::const_buffer(data.data() + consumed, data.size() - consumed), ec);
      if (ec == http::error::need_more) {
        // A chunk header or trailer that never ends must not grow the buffer.
        if (data.size() - consumed > max_header_) return failed(http::error::header_limit);
        return State::more;
      }
      if (ec) return failed(ec);
      if (!had_head && is_header_done()) return check_head();
      if (is_done()) return State::done;
    }
    return State::more;
  }

  HttpRequest request_;
  ApiError error_;

 private:
  State check_head() {
    if (request_.http11 && request_.header("host").empty()) return failed("the Host header is missing");
    if (std::ranges::count(request_.headers, "host",
                           [](const auto& field) -> std::string_view { return field.first; }) > 1)
      return failed("there is more than one Host header");
    if (!knows_body_length())
      return failed("the only Transfer-Encoding spoken here is chunked, once and with HTTP/1.1");
    std::string_view target = request_.target;
    if (target.starts_with("http://") || target.starts_with("https://")) {
      const size_t path = target.find('/', target.find("//") + 2);
      target = path == std::string_view::npos ? "/" : target.substr(path);
    }
    if (target != "*" && !target.starts_with('/')) return failed("the request's path does not begin with /");
    auto path = decode_path(target);
    if (!path) return failed("the request's path has a broken % escape or is not UTF-8");
    request_.path = std::move(*path);
    return State::head;
  }

  /// Of a body in a coding that is not known nobody can tell where it ends and the next request begins
  /// (RFC 9112, 6.3).
  bool knows_body_length() const {
    int codings = 0;
    for (const auto& [name, value] : request_.headers) {
      if (name != "transfer-encoding") continue;
      if (++codings > 1 || !request_.http11 || lower(value) != "chunked") return false;
    }
    return true;
  }

  State failed(const char* message) {
    error_ = {ApiErrorKind::bad_request, message};
    return State::failed;
  }

  State failed(error_code ec) {
    if (ec == http::error::header_limit)
      error_ = {
          ApiErrorKind::header_too_large,
          fmt::format("the headers are larger than {} bytes or more than {}", max_header_, max_fields_)};
    else if (ec == http::error::body_limit)
      error_ = {ApiErrorKind::too_large, fmt::format("the body is larger than {} bytes", max_body_)};
    else if (ec == http::error::bad_version)
      error_ = {ApiErrorKind::version, "only HTTP/1.1 and HTTP/1.0 are spoken here"};
    else
      error_ = {ApiErrorKind::bad_request, "not a valid HTTP request: " + ec.message()};
    return State::failed;
  }

  void on_request_impl(http::verb, View method, View target, int version, error_code& ec) override {
    request_.method = std_view(method);
    request_.target = std_view(target);
    request_.http11 = version == 11;
    if (version != 11 && version != 10) ec = http::error::bad_version;
  }
  void on_response_impl(int, View, int, error_code&) override {}
  void on_field_impl(http::field, View name, View value, error_code& ec) override {
    if (is_header_done()) return;  // trailers count for nothing
    if (request_.headers.size() >= max_fields_) {
      ec = http::error::header_limit;
      return;
    }
    request_.headers.emplace_back(lower(std_view(name)), std_view(value));
  }
  void on_header_impl(error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}
  // The body grows as bytes come, not as the client announces them.
  std::size_t on_body_impl(View body, error_code&) override {
    request_.body.append(body.data(), body.size());
    return body.size();
  }
  void on_chunk_header_impl(std::uint64_t, View, error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, View body, error_code& ec) override {
    if (request_.body.size() + body.size() > max_body_) {
      ec = http::error::body_limit;
      return 0;
    }
    request_.body.append(body.data(), body.size());
    return body.size();
  }
  void on_finish_impl(error_code&) override {}

  size_t max_fields_;
  size_t max_header_;
  uint64_t max_body_ = 0;
};

RequestParser::RequestParser(const ServerLimits& limits) : impl_(std::make_unique<Impl>(limits)) {}
RequestParser::~RequestParser() = default;
RequestParser::State RequestParser::feed(std::string_view data, size_t& consumed) {
  return impl_->feed(data, consumed);
}
HttpRequest& RequestParser::request() { return impl_->request_; }
const ApiError& RequestParser::error() const { return impl_->error_; }
std::optional<uint64_t> RequestParser::content_length() const {
  if (!impl_->is_header_done() || impl_->chunked()) return std::nullopt;
  const auto length = impl_->content_length();
  return length ? *length : 0;
}
bool RequestParser::done() const { return impl_->is_done(); }
bool RequestParser::keep_alive() const { return impl_->keep_alive(); }
bool RequestParser::expects_continue() const {
  return impl_->request_.http11 && lower(impl_->request_.header("expect")) == "100-continue";
}

}  // namespace quern
