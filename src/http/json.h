// JSON bodies: parsed with limits, and read by one table of fields per endpoint that also describes them in
// /openapi.json.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "http/error.h"

namespace quern {

using Json = nlohmann::ordered_json;

/// Compact text. Never fails: bytes that are not UTF-8 become U+FFFD.
std::string dump(const Json& value);
/// A value as it may stand in a message: compact and short.
std::string shown(const Json& value);

/// Errors say where. Depth, number of values and size of objects are bounded, so that a small text cannot
/// become large memory, deep recursion or long work. `spent`: of several texts from one request; 0 at first,
/// so that their objects are bounded together.
Parsed<Json> parse_json(std::string_view text, size_t* spent = nullptr);

/// What a field of a request body may be.
struct FieldSpec {
  enum class Kind { string, boolean, integer, number, object, array, any };
  std::string_view name;
  Kind kind = Kind::any;
  std::string_view about;
  bool required = false;
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool above_least = false;      // `least` itself is not allowed
  std::string_view schema = {};  // JSON Schema text, where the kind does not say enough
};

/// A request body that is an object whose fields fit their specs. Absent and null are the same; fields that
/// no spec names are ignored.
class Body {
 public:
  static Parsed<Body> parse(std::string_view text, std::span<const FieldSpec> fields);

  /// Null when absent.
  const Json* find(std::string_view name) const;
  std::optional<std::string> string(std::string_view name) const;
  std::optional<bool> boolean(std::string_view name) const;
  std::optional<int64_t> integer(std::string_view name) const;
  std::optional<double> number(std::string_view name) const;
  bool flag(std::string_view name, bool otherwise) const { return boolean(name).value_or(otherwise); }

 private:
  Json value_;
};

/// A string, or an array of strings, `most` of them, none empty or longer than `longest` bytes; absent gives
/// none.
Parsed<std::vector<std::string>> string_list(const Body& body, std::string_view name, size_t most,
                                             size_t longest);
/// An array of token ids below `vocab`; `field` is its name in messages.
Parsed<std::vector<int32_t>> token_list(const Json& value, const std::string& field, int32_t vocab);

/// "an object", "a string" …: what a value is, for messages.
std::string_view kind_of(const Json& value);

}  // namespace quern
