// Structured logs: one line an event, as text for a terminal or as JSON.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "core/result.h"

namespace quern::log {

enum class Format { pretty, json };
enum class Level { trace, debug, info, warn, error, off };

/// To stderr. Call once, before other threads log. Default: pretty, info.
void init(Format format, Level level);
bool enabled(Level level);

/// A named value beside the message; `text` is quoted in JSON, numbers are not.
struct Field {
  std::string_view name;
  std::string text;
  bool quoted = true;
  Field(std::string_view name, std::string_view value) : name(name), text(value) {}
  Field(std::string_view name, const std::string& value) : name(name), text(value) {}
  Field(std::string_view name, const char* value) : name(name), text(value) {}
  Field(std::string_view name, bool value) : name(name), text(value ? "true" : "false"), quoted(false) {}
  template <class Number>
  requires std::is_arithmetic_v<Number> Field(std::string_view name, Number value)
      : name(name), text(fmt::format("{}", value)), quoted(false) {}
};

/// `log::write(Level::info, "model loaded", {{"model", id}, {"seconds", 1.5}});`
void write(Level level, std::string_view message, std::initializer_list<Field> fields = {});

inline void info(std::string_view message, std::initializer_list<Field> fields = {}) {
  write(Level::info, message, fields);
}
inline void warn(std::string_view message, std::initializer_list<Field> fields = {}) {
  write(Level::warn, message, fields);
}
inline void error(std::string_view message, std::initializer_list<Field> fields = {}) {
  write(Level::error, message, fields);
}
inline void debug(std::string_view message, std::initializer_list<Field> fields = {}) {
  write(Level::debug, message, fields);
}

}  // namespace quern::log
