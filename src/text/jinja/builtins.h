// What templates find without defining it.
#pragma once

#include <string_view>

#include "text/jinja/value.h"

namespace quern::jinja {

/// Null where there is none of that name. Tests return a bool.
Builtin find_filter(std::string_view name);
Builtin find_test(std::string_view name);
Builtin find_global(std::string_view name);
/// Of the type of `object`.
Builtin find_method(const Value& object, std::string_view name);

/// The tables that find_filter searches: text, then lists.
Builtin find_text_filter(std::string_view name);
Builtin find_list_filter(std::string_view name);
Builtin find_string_method(std::string_view name);

struct NamedBuiltin {
  std::string_view name;
  Builtin builtin;
};

template <size_t size>
Builtin find_builtin(const NamedBuiltin (&table)[size], std::string_view name) {
  for (const NamedBuiltin& entry : table) {
    if (entry.name == name) return entry.builtin;
  }
  return nullptr;
}

/// The operand of a filter for text: numbers and lists as str() prints them, undefined as nothing. None is an
/// error, since "None" in a prompt is never meant.
std::string_view operand_text(Heap& heap, const Value& value, std::string_view filter);

/// A value by a path as filters take it, "a.b.0", or an index.
Value by_path(Interpreter& interpreter, const Value& value, const Value& path);

}  // namespace quern::jinja
