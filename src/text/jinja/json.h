// Between JSON and template values.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "text/jinja/value.h"

namespace quern::jinja {

/// Strings are views of `json`, which must outlive the value.
Value from_json(Heap& heap, const nlohmann::ordered_json& json, int depth = 0);

/// The options of Python's json.dumps.
struct JsonStyle {
  std::optional<std::string> indent;  // what one level is indented by
  std::string_view item_separator = ", ";
  std::string_view key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};

/// Adds what json.dumps prints for `value`; undefined is null, a function is an error.
void add_json(Heap& heap, Text& out, const Value& value, const JsonStyle& style, int depth = 0);

}  // namespace quern::jinja
