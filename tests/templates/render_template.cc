// Renders templates for a program in another language: reads one JSON object a line from stdin, {"template":
// …, "variables": {…}}, and answers each with a line, {"text": …} or {"error": …}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "text/chat_template.h"

namespace {

quern::Result<std::string> render(const nlohmann::ordered_json& request) {
  QUERN_TRY(const auto parsed, quern::ChatTemplate::parse(request.value("template", "")));
  return parsed->render(request.value("variables", nlohmann::ordered_json::object()));
}

nlohmann::ordered_json answer(const std::string& line) {
  const auto request = nlohmann::ordered_json::parse(line, nullptr, false);
  if (!request.is_object()) return {{"error", "expected a JSON object on each line"}};
  const auto text = render(request);
  if (!text) return {{"error", text.error().message}};
  return {{"text", *text}};
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << answer(line).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)
              << std::endl;
  }
  return 0;
}
