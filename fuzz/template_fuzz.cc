// Any text as a chat template, rendered with a fixed conversation: parse and render must end in time, within
// bounds and without a fault.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "text/jinja/jinja.h"

namespace {

const nlohmann::ordered_json& variables() {
  static const auto json = nlohmann::ordered_json::parse(R"json({
    "messages": [
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": "Grüße, \"Welt\" 😀\n"},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
        "function": {"name": "f", "arguments": {"x": [1, -2.5, true, null], "y": {"z": ""}}}}]},
      {"role": "tool", "content": "42"}
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>",
    "n": 3, "f": 2.5, "s": "a b", "l": [3, 1, 2], "d": {"k": "v", "items": 1}, "no": null, "empty": ""
  })json");
  return json;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto program = quern::jinja::Program::parse({reinterpret_cast<const char*>(data), size});
  if (!program) return 0;
  const quern::jinja::Limits limits{.bytes = size_t{16} << 20, .output = size_t{1} << 20, .steps = 200'000};
  const auto clock = [] {
    std::tm time{};
    time.tm_year = 125;
    time.tm_mday = 1;
    return time;
  };
  (void)(*program)->render(variables(), limits, clock);
  return 0;
}
