// What the tests of this folder render with.
#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "text/jinja/jinja.h"

namespace quern::jinja {

inline const nlohmann::ordered_json& test_variables() {
  static const auto json = nlohmann::ordered_json::parse(R"json({
    "s": "Hello, World", "u": "Grüße 😀 ñ", "empty": "", "n": 5, "neg": -7, "f": 2.5, "t": true, "no": null,
    "l": [3, 1, 2], "ls": ["b", "A", "c"], "d": {"b": 1, "a": {"x": [1, 2, {"y": null}]}, "c": "q\"uo'te"},
    "ml": "one\n  two\n\nthree\n", "ws": " \t a b \n",
    "msgs": [{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "content": "yo", "n": 1},
             {"role": "user", "content": "bye", "n": 3}],
    "fl": [1.0, 0.1, 1e16, 1e-5, 123456789.123, 1e22, -0.0], "big": 9007199254740993,
    "huge": 18446744073709551615
  })json");
  return json;
}

/// Monday, 3 February 2025, 04:05:06.
inline std::tm test_time() {
  std::tm time{};
  time.tm_year = 125;
  time.tm_mon = 1;
  time.tm_mday = 3;
  time.tm_hour = 4;
  time.tm_min = 5;
  time.tm_sec = 6;
  time.tm_wday = 1;
  time.tm_yday = 33;
  return time;
}

/// The text, or "error: …".
inline std::string rendered(std::string_view source,
                            const nlohmann::ordered_json& variables = test_variables(),
                            const Limits& limits = {}) {
  const auto program = Program::parse(source);
  if (!program) return "error: " + program.error().message;
  const auto text = (*program)->render(variables, limits, test_time);
  return text ? *text : "error: " + text.error().message;
}

}  // namespace quern::jinja
