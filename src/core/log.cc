#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

namespace quern::log {
namespace {

Format g_format = Format::pretty;

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::trace:
      return spdlog::level::trace;
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warn:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
    case Level::off:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

std::shared_ptr<spdlog::logger> make_logger() {
  auto logger =
      std::make_shared<spdlog::logger>("quern", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%H:%M:%S.%e %^%-5l%$ %v");
  logger->flush_on(spdlog::level::trace);
  return logger;
}

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = make_logger();
  return *instance;
}

/// How many bytes of `text` at `at` are one character of UTF-8 that a terminal only shows; 0: none.
size_t shown(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7f ? 1 : 0;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  uint32_t code = first & (0xff >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0xa0, 0x800, 0x10000};  // below 0xa0: controls
  const bool valid = first >= 0xc2 && first < 0xf5 && code >= kLeast[length] && code <= 0x10ffff &&
                     (code < 0xd800 || code > 0xdfff);
  return valid ? length : 0;
}

/// add(character, whether a terminal only shows it), byte by byte where it is no UTF-8.
template <typename Add>
void for_characters(std::string_view text, const Add& add) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = shown(text, i);
    add(text.substr(i, std::max<size_t>(length, 1)), length > 0);
    i += std::max<size_t>(length, 1);
  }
}

constexpr std::string_view kReplacement = "\uFFFD";
bool ascii(std::string_view character) { return static_cast<unsigned char>(character.front()) < 0x80; }

/// A name or an answer must break neither the line nor the terminal.
void append_clean(std::string& out, std::string_view text) {
  for_characters(text, [&](std::string_view character, bool shown) {
    if (shown)
      out += character;
    else
      out += ascii(character) ? " " : kReplacement;
  });
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for_characters(text, [&](std::string_view character, bool shown) {
    if (shown) {
      if (character == "\"" || character == "\\") out += '\\';
      out += character;
    } else if (ascii(character)) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(character.front()));
    } else {
      out += kReplacement;
    }
  });
  out += '"';
}

}  // namespace

void init(Format format, Level level) {
  g_format = format;
  logger().set_level(to_spdlog(level));
  if (format == Format::json)
    logger().set_pattern("{\"time\":\"%Y-%m-%dT%H:%M:%S.%e%z\",\"level\":\"%l\",%v}");
}

bool enabled(Level level) { return logger().should_log(to_spdlog(level)); }

void write(Level level, std::string_view message, std::initializer_list<Field> fields) {
  if (!enabled(level)) return;
  std::string line;
  if (g_format == Format::json) {
    line += "\"message\":";
    append_json_string(line, message);
    for (const Field& field : fields) {
      line += ',';
      append_json_string(line, field.name);
      line += ':';
      if (field.quoted)
        append_json_string(line, field.text);
      else
        line += field.text;
    }
  } else {
    append_clean(line, message);
    for (const Field& field : fields) {
      line += "  ";
      line += field.name;
      line += '=';
      append_clean(line, field.text);
    }
  }
  logger().log(to_spdlog(level), "{}", line);
}

}  // namespace quern::log
