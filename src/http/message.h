// Requests and responses as handlers see them: no sockets, no parser.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/error.h"

namespace quern {

struct HttpRequest {
  std::string method;
  std::string target;                                        // as sent
  std::string path;                                          // decoded, without the query
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  bool http11 = true;
  std::string id;     // X-Request-Id
  std::string param;  // what the route's {id} matched

  /// The first of that name (lower case), or "".
  std::string_view header(std::string_view name) const {
    for (const auto& [key, value] : headers)
      if (key == name) return value;
    return {};
  }
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;

  static HttpResponse json(std::string body, int status = 200) { return {status, std::move(body)}; }
  static HttpResponse error(const ApiError& error, ErrorStyle style) {
    HttpResponse response{http_status(error.kind), error_body(error, style)};
    if (error.retry_after > 0)
      response.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
    return response;
  }
};

/// Decodes %XX and cuts the query off; empty when an escape is broken, or the result has a NUL or is not
/// UTF-8.
std::optional<std::string> decode_path(std::string_view target);

}  // namespace quern
