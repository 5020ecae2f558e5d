#include "http/router.h"

#include <algorithm>

#include "config/nearest.h"

namespace quern {
namespace {

constexpr std::string_view kId = "{id}";

/// True when the path is of this pattern; `id` gets what {id} stands for.
bool matches(std::string_view pattern, std::string_view path, std::string& id) {
  const size_t at = pattern.find(kId);
  if (at == std::string_view::npos) return pattern == path;
  const std::string_view before = pattern.substr(0, at), after = pattern.substr(at + kId.size());
  if (path.size() <= before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after))
    return false;
  id = path.substr(before.size(), path.size() - before.size() - after.size());
  return true;
}

RouteMatch match_exactly(std::string_view method, std::string_view path) {
  RouteMatch match;
  for (const Route& route : all_routes()) {
    std::string id;
    if (!matches(route.path, path, id)) continue;
    if (route.method == method || (method == "HEAD" && route.method == "GET")) {
      match.route = &route;
      match.id = std::move(id);
    }
    match.allowed.emplace_back(route.method);
    if (route.method == "GET") match.allowed.emplace_back("HEAD");
  }
  if (!match.allowed.empty()) match.allowed.emplace_back("OPTIONS");
  return match;
}

}  // namespace

RouteMatch find_route(std::string_view method, std::string_view path) {
  RouteMatch match = match_exactly(method, path);
  if (match.allowed.empty() && path.size() > 1 && path.ends_with('/')) {
    path.remove_suffix(1);
    match = match_exactly(method, path);
  }
  return match;
}

std::string_view nearest_route(std::string_view path) {
  std::vector<std::string_view> paths;
  for (const Route& route : all_routes()) paths.push_back(route.path);
  return nearest(path, paths);
}

ErrorStyle style_of(std::string_view path) {
  return path == "/v1" || path.starts_with("/v1/") ? ErrorStyle::openai : ErrorStyle::native;
}

}  // namespace quern
