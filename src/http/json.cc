#include "http/json.h"

#include <array>
#include <cmath>

namespace quern {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxValues = 2'000'000;
/// A new member is compared with all that its object has, so that an object costs the square of its size:
/// each is bounded, and all of them together to what the largest one costs.
constexpr size_t kMaxMembers = 4096;
constexpr size_t kMaxComparisons = kMaxMembers * kMaxMembers / 2;

/// Depth, number of values and size of objects, from the text alone. Adds to `comparisons`.
std::optional<std::string> too_complex(std::string_view text, size_t& comparisons) {
  int depth = 0;
  size_t values = 0;
  std::array<size_t, kMaxDepth + 1> members{};  // of the open objects, by depth
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if (c == ',' || c == '[' || c == '{') ++values;
    if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return fmt::format("nested deeper than {} levels", kMaxDepth);
      members[static_cast<size_t>(depth)] = 0;
    }
    if ((c == ']' || c == '}') && depth > 0) --depth;  // below 0 it is no JSON, as the parser will find
    if (c == ':') {
      size_t& count = members[static_cast<size_t>(depth)];
      comparisons += count++;
      if (count > kMaxMembers) return fmt::format("an object has more than {} members", kMaxMembers);
      if (comparisons > kMaxComparisons)
        return fmt::format("its objects have too many members together: one may have {}, or four {} each",
                           kMaxMembers, kMaxMembers / 2);
    }
  }
  if (values > kMaxValues) return fmt::format("more than {} values", kMaxValues);
  return std::nullopt;
}

/// "[json.exception.parse_error.101] parse error at line 1, column 2: …" without its first part.
std::string reason(const nlohmann::json::exception& e) {
  std::string_view what = e.what();
  const size_t end = what.find("] ");
  if (end != std::string_view::npos) what.remove_prefix(end + 2);
  constexpr std::string_view kAgain = "parse error ";
  if (what.starts_with(kAgain)) what.remove_prefix(kAgain.size());
  // The library quotes what it read last, however long that is.
  constexpr std::string_view kRead = "; last read: '";
  const size_t read = what.find(kRead);
  if (read != std::string_view::npos && what.size() > read + 80) what = what.substr(0, read);
  return std::string(what.substr(0, 300));
}

std::string bound(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15)
    return fmt::format("{}", static_cast<int64_t>(value));
  return fmt::format("{}", value);
}

std::string expected_of(const FieldSpec& spec) {
  using Kind = FieldSpec::Kind;
  switch (spec.kind) {
    case Kind::string:
      return "a string";
    case Kind::boolean:
      return "true or false";
    case Kind::object:
      return "an object";
    case Kind::array:
      return "an array";
    case Kind::any:
      return "given";
    case Kind::integer:
    case Kind::number:
      break;
  }
  std::string text = spec.kind == Kind::integer ? "an integer" : "a number";
  const bool low = std::isfinite(spec.least), high = std::isfinite(spec.most);
  if (low && high && !spec.above_least)
    return text + " between " + bound(spec.least) + " and " + bound(spec.most);
  if (low) text += (spec.above_least ? " above " : " of at least ") + bound(spec.least);
  if (high) text += (low ? " and at most " : " of at most ") + bound(spec.most);
  return text;
}

bool fits(const Json& value, const FieldSpec& spec) {
  using Kind = FieldSpec::Kind;
  switch (spec.kind) {
    case Kind::string:
      return value.is_string();
    case Kind::boolean:
      return value.is_boolean();
    case Kind::object:
      return value.is_object();
    case Kind::array:
      return value.is_array();
    case Kind::any:
      return true;
    case Kind::integer:
    case Kind::number:
      break;
  }
  if (!value.is_number()) return false;
  const double number = value.get<double>();
  if (!std::isfinite(number)) return false;
  if (spec.kind == Kind::integer) {
    if (number != std::floor(number)) return false;
    // What does not fit 64 bits signed is out of range, whatever the spec says.
    if (number >= 9223372036854775808.0 || number < -9223372036854775808.0) return false;
  }
  return number <= spec.most && (spec.above_least ? number > spec.least : number >= spec.least);
}

}  // namespace

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string shown(const Json& value) {
  if (value.is_object() || (value.is_array() && value.size() > 8)) return std::string(kind_of(value));
  std::string text = dump(value);
  if (text.size() <= 60) return text;
  size_t end = 57;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

std::string_view kind_of(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number()) return "a number";
  return "null";
}

Parsed<Json> parse_json(std::string_view text, size_t* spent) {
  size_t own = 0;
  if (const auto complaint = too_complex(text, spent != nullptr ? *spent : own))
    return fail(ApiError{ApiErrorKind::bad_request, "the body is not acceptable JSON: " + *complaint});
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    return fail(ApiError{ApiErrorKind::bad_request, "the body is not valid JSON: " + reason(e)});
  }
}

Parsed<Body> Body::parse(std::string_view text, std::span<const FieldSpec> fields) {
  Body body;
  QUERN_TRY(body.value_, parse_json(text));
  if (!body.value_.is_object())
    return fail(ApiError{ApiErrorKind::bad_request,
                         fmt::format("the body must be a JSON object, got {}", kind_of(body.value_))});
  for (const FieldSpec& spec : fields) {
    const Json* value = body.find(spec.name);
    if (value == nullptr) {
      if (spec.required) return bad_field(spec.name, "required, but missing");
      continue;
    }
    if (!fits(*value, spec))
      return bad_field(spec.name, fmt::format("must be {}, got {}", expected_of(spec), shown(*value)));
  }
  return body;
}

const Json* Body::find(std::string_view name) const {
  const auto found = value_.find(std::string(name));
  return found == value_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::string> Body::string(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return value->get<std::string>();
}

std::optional<bool> Body::boolean(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr || !value->is_boolean()) return std::nullopt;
  return value->get<bool>();
}

std::optional<int64_t> Body::integer(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->get<int64_t>();
}

std::optional<double> Body::number(std::string_view name) const {
  const Json* value = find(name);
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->get<double>();
}

Parsed<std::vector<std::string>> string_list(const Body& body, std::string_view name, size_t most,
                                             size_t longest) {
  std::vector<std::string> list;
  const Json* value = body.find(name);
  if (value == nullptr) return list;
  if (!value->is_string() && !value->is_array())
    return bad_field(name, fmt::format("must be a string or an array of strings, got {}", shown(*value)));
  if (value->is_array() && value->size() > most)
    return bad_field(name, fmt::format("has {} strings, at most {} are allowed", value->size(), most));
  if (value->is_string()) {
    list.push_back(value->get<std::string>());
  } else {
    for (const Json& item : *value) {
      if (!item.is_string())
        return bad_field(name, fmt::format("must hold strings only, got {}", shown(item)));
      list.push_back(item.get<std::string>());
    }
  }
  for (const auto& item : list) {
    if (item.empty()) return bad_field(name, "must not hold an empty string");
    if (item.size() > longest)
      return bad_field(name,
                       fmt::format("has a string of {} bytes, at most {} are allowed", item.size(), longest));
  }
  return list;
}

Parsed<std::vector<int32_t>> token_list(const Json& value, const std::string& field, int32_t vocab) {
  if (!value.is_array())
    return bad_field(field, fmt::format("must be an array of token ids, got {}", shown(value)));
  std::vector<int32_t> tokens;
  tokens.reserve(value.size());
  for (const Json& item : value) {
    const bool whole = item.is_number_integer();
    const int64_t id =
        whole ? (item.is_number_unsigned() && item.get<uint64_t>() > INT32_MAX ? -1 : item.get<int64_t>())
              : -1;
    if (id < 0 || id >= vocab)
      return bad_field(fmt::format("{}[{}]", field, tokens.size()),
                       fmt::format("must be a token id between 0 and {}, got {}", vocab - 1, shown(item)));
    tokens.push_back(static_cast<int32_t>(id));
  }
  return tokens;
}

}  // namespace quern
