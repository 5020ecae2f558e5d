// Which handler answers which path.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "http/app.h"
#include "http/json.h"

namespace quern {

/// One endpoint: where it is, who answers it, and what /openapi.json says of it.
struct Route {
  std::string_view method;
  std::string_view path;  // "{id}" stands for one or more segments
  Handler handler;
  ErrorStyle style = ErrorStyle::native;
  bool open = false;       // needs no API key
  bool immediate = false;  // answered on the I/O thread: must be quick and must not wait
  std::string_view summary;
  std::span<const FieldSpec> fields;  // of the request's body; empty: no body
  std::string_view response = {};     // names of schemas in openapi.cc
  std::string_view event = {};        // of a stream's events
  std::string_view content_type = "application/json";
};

/// Every endpoint, in the order in which they are described.
std::span<const Route> all_routes();

struct RouteMatch {
  const Route* route = nullptr;      // null: see `allowed`
  std::string id;                    // what {id} stands for
  std::vector<std::string> allowed;  // methods of the path; empty: no such path
};
/// HEAD finds the route of GET. A slash at the end makes no difference.
RouteMatch find_route(std::string_view method, std::string_view path);
/// The path nearest to one that is not there.
std::string_view nearest_route(std::string_view path);
/// OpenAI's below /v1/.
ErrorStyle style_of(std::string_view path);

}  // namespace quern
