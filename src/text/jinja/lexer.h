// Template text → tokens, with the white-space rules that chat templates are written for (trim_blocks and
// lstrip_blocks on, one newline at the end dropped, "\r\n" read as "\n").
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/error.h"

namespace quern::jinja {

struct Token {
  enum class Type : uint8_t {
    text,         // outside of tags
    print_begin,  // {{
    print_end,
    block_begin,  // {%
    block_end,
    name,
    string,  // unescaped
    integer,
    real,
    op,  // punctuation
    end,
  };
  Type type;
  std::string value;
  Position at;
};

/// Throws SyntaxError. The last token is of type `end`.
std::vector<Token> tokenize(std::string_view source);

}  // namespace quern::jinja
