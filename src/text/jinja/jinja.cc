#include "text/jinja/jinja.h"

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "text/jinja/error.h"
#include "text/jinja/parser.h"

namespace quern::jinja {

Result<std::unique_ptr<Program>> Program::parse(std::string_view source) {
  if (source.size() > kMaxSource) {
    return fail(ErrorCode::invalid_argument, "the chat template has {} bytes; at most {} are read",
                source.size(), kMaxSource);
  }
  try {
    auto program = std::make_unique<Program>();
    program->block_ = parse_template(source);
    return program;
  } catch (const SyntaxError& error) {
    return fail(ErrorCode::invalid_argument, "line {}, column {}: {}", error.at.line, error.at.column,
                error.message);
  } catch (const std::exception& error) {
    return fail(ErrorCode::resource_exhausted, "cannot parse the chat template: {}", error.what());
  }
}

Result<std::string> Program::render(const nlohmann::ordered_json& variables, const Limits& limits,
                                    const Clock& clock) const {
  Interpreter interpreter(limits, clock);
  try {
    return interpreter.render(block_, variables);
  } catch (const TemplateError& error) {
    if (error.from_template) return fail(ErrorCode::invalid_argument, "{}", error.message);
    const Position at = interpreter.position();
    return fail(ErrorCode::invalid_argument, "{} (chat template, line {}, column {})", error.message, at.line,
                at.column);
  } catch (const std::exception& error) {
    return fail(ErrorCode::resource_exhausted, "cannot render the chat template: {}", error.what());
  }
}

std::tm Program::local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  return local;
}

}  // namespace quern::jinja
