// Tokens → syntax tree, with Jinja2's precedences.
#pragma once

#include <string_view>

#include "text/jinja/ast.h"

namespace quern::jinja {

inline constexpr int kMaxNesting = 150;  // of parentheses, blocks and every other construct

/// Throws SyntaxError, also for a template that nests deeper than kMaxNesting.
Block parse_template(std::string_view source);

}  // namespace quern::jinja
