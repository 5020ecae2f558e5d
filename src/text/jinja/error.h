// How the interpreter reports trouble to itself. Thrown only between the files of this folder: parse() and
// render() (jinja.h) catch it and hand back a Result.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <utility>

namespace quern::jinja {

/// Counted from 1; columns count characters, not bytes.
struct Position {
  uint32_t line = 1;
  uint32_t column = 1;
};

struct TemplateError {
  std::string message;
  bool from_template = false;  // raise_exception: the text stands alone, without a position
};

/// A syntax error, with its place.
struct SyntaxError {
  Position at;
  std::string message;
};

template <class... Args>
[[noreturn]] void raise(fmt::format_string<Args...> format, Args&&... args) {
  throw TemplateError{fmt::format(format, std::forward<Args>(args)...)};
}

template <class... Args>
[[noreturn]] void raise_syntax(Position at, fmt::format_string<Args...> format, Args&&... args) {
  throw SyntaxError{at, fmt::format(format, std::forward<Args>(args)...)};
}

}  // namespace quern::jinja
