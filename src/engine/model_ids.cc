#include "engine/model_ids.h"

#include <algorithm>
#include <optional>

namespace quern {
namespace {

/// `owner/repo:selector@tokenizer` → `owner/repo`. A drive or a port is not a selector: the colon must stand
/// in the last part of the path.
std::string_view without_selector(std::string_view id) {
  id = id.substr(0, id.find('@'));  // first: the tokenizer's repo has a slash of its own
  const size_t name = id.rfind('/') == std::string_view::npos ? 0 : id.rfind('/') + 1;
  return id.substr(0, id.find(':', name));
}

}  // namespace

Result<size_t> find_model_id(std::span<const std::string> served, std::string_view id) {
  if (served.empty()) return fail(ErrorCode::not_found, "no model is served: set LLM_ALLOWED_MODELS");
  if (id.empty()) return 0;
  if (const auto same = std::ranges::find(served, id); same != served.end())
    return static_cast<size_t>(same - served.begin());
  std::optional<size_t> match;
  bool ambiguous = false;
  std::string names;
  for (size_t i = 0; i < served.size(); ++i) {
    names += (names.empty() ? "" : ", ") + served[i];
    if (without_selector(served[i]) != id) continue;
    ambiguous |= match.has_value();
    match = i;
  }
  if (match && !ambiguous) return *match;
  return fail(ErrorCode::not_found, "model {} {}; served: {}", id,
              ambiguous ? "is ambiguous" : "is not served", names);
}

}  // namespace quern
