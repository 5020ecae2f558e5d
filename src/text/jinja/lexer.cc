#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "text/jinja/strings.h"

namespace quern::jinja {
namespace {

std::string normalize_newlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (position_ < text_.size()) {
      const size_t tag = next_tag();
      add_text(tag);
      if (tag == text_.size()) break;
      position_ = tag;
      lex_tag();
    }
    add(Token::Type::end, "", text_.size());
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(text_).substr(position_); }
  bool at(std::string_view what) const { return rest().starts_with(what); }

  /// Positions only grow, so that lines are counted once.
  Position place(size_t offset) {
    for (; counted_ < offset && counted_ < text_.size(); ++counted_) {
      if (text_[counted_] == '\n') {
        ++place_.line;
        place_.column = 1;
      } else if ((static_cast<unsigned char>(text_[counted_]) & 0xC0) != 0x80) {
        ++place_.column;
      }
    }
    return place_;
  }

  void add(Token::Type type, std::string value, size_t offset) {
    tokens_.push_back({type, std::move(value), place(offset)});
  }

  size_t next_tag() const {
    for (size_t i = position_; (i = text_.find('{', i)) != std::string::npos; ++i) {
      if (i + 1 < text_.size() && (text_[i + 1] == '{' || text_[i + 1] == '%' || text_[i + 1] == '#'))
        return i;
    }
    return text_.size();
  }

  /// The text from here to the tag at `tag`, less what the tag's sign and lstrip_blocks take from its end.
  void add_text(size_t tag) {
    std::string_view text = std::string_view(text_).substr(position_, tag - position_);
    if (tag < text_.size()) text = strip_before(text, tag);
    if (!text.empty()) add(Token::Type::text, std::string(text), position_);
  }

  std::string_view strip_before(std::string_view text, size_t tag) const {
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    if (sign == '-') return strip_right(text);
    if (sign == '+' || text_[tag + 1] == '{') return text;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    const bool starts_line =
        newline != std::string_view::npos || position_ == 0 || text_[position_ - 1] == '\n';
    if (starts_line && strip(text.substr(line)).empty()) return text.substr(0, line);
    return text;
  }

  void lex_tag() {
    const size_t begin = position_;
    const char kind = text_[begin + 1];
    position_ += 2;
    if (position_ < text_.size() && (text_[position_] == '-' || text_[position_] == '+')) ++position_;
    if (kind == '#') return lex_comment(begin);
    if (kind == '%' && lex_raw(begin)) return;
    const bool print = kind == '{';
    add(print ? Token::Type::print_begin : Token::Type::block_begin, "", begin);
    lex_code(tokens_.back().at, print ? "}}" : "%}");
    add(print ? Token::Type::print_end : Token::Type::block_end, "", position_);
    // `position_` stands at the end mark, which may carry a sign.
    close_tag(print ? "}}" : "%}", !print);
  }

  /// Steps over `-%}`, `+%}` or `%}` and the white space that it takes with it.
  void close_tag(std::string_view mark, bool trim_newline) {
    const char sign = text_[position_] == mark[0] ? '\0' : text_[position_];
    position_ += mark.size() + (sign != '\0');
    if (sign == '-') {
      position_ = text_.size() - strip_left(rest()).size();
    } else if (sign == '\0' && trim_newline && at("\n")) {
      ++position_;
    }
  }

  void lex_comment(size_t begin) {
    const size_t end = text_.find("#}", position_);
    if (end == std::string::npos) raise_syntax(place(begin), "expected '#}}' to end this comment");
    const bool sign = end > position_ && (text_[end - 1] == '-' || text_[end - 1] == '+');
    position_ = sign ? end - 1 : end;
    close_tag("#}", true);
  }

  /// `{% raw %} … {% endraw %}`: what is between is text.
  bool lex_raw(size_t begin) {
    size_t i = skip_space(position_);
    if (std::string_view(text_).substr(i, 3) != "raw") return false;
    i = skip_space(i + 3);
    const bool minus = i < text_.size() && text_[i] == '-';
    if (std::string_view(text_).substr(i + minus, 2) != "%}") return false;
    position_ = i;
    close_tag("%}", false);
    for (size_t tag = position_; (tag = text_.find("{%", tag)) != std::string::npos; ++tag) {
      size_t j = tag + 2;
      if (j < text_.size() && (text_[j] == '-' || text_[j] == '+')) ++j;
      j = skip_space(j);
      if (std::string_view(text_).substr(j, 6) != "endraw") continue;
      j = skip_space(j + 6);
      const bool sign = j < text_.size() && (text_[j] == '-' || text_[j] == '+');
      if (std::string_view(text_).substr(j + sign, 2) != "%}") continue;
      add_text(tag);
      position_ = j;
      close_tag("%}", true);
      return true;
    }
    raise_syntax(place(begin), "expected '{{% endraw %}}' to end this raw block");
  }

  size_t skip_space(size_t i) const {
    while (i < text_.size()) {
      const Character c = character(text_, i);
      if (!is_space(c.code)) break;
      i = c.next;
    }
    return i;
  }

  void lex_code(Position begin, std::string_view mark) {
    std::string brackets;  // the closing ones that are due
    while (true) {
      position_ = skip_space(position_);
      if (position_ >= text_.size()) raise_syntax(begin, "expected '{}' to end this tag", mark);
      const char c = text_[position_];
      if (brackets.empty()) {
        const bool sign = c == '-' || (c == '+' && mark == "%}");
        if (rest().substr(sign).starts_with(mark)) return;
      }
      if (is_name_start(c)) {
        lex_name();
      } else if (is_digit(c)) {
        lex_number();
      } else if (c == '"' || c == '\'') {
        lex_string();
      } else {
        lex_operator(brackets);
      }
    }
  }

  void lex_name() {
    const size_t begin = position_;
    while (position_ < text_.size() && is_name_part(text_[position_])) ++position_;
    add(Token::Type::name, text_.substr(begin, position_ - begin), begin);
  }

  /// Digits with single underscores between them.
  size_t skip_digits(size_t i) const {
    while (i < text_.size() &&
           (is_digit(text_[i]) || (text_[i] == '_' && i + 1 < text_.size() && is_digit(text_[i + 1])))) {
      ++i;
    }
    return i;
  }

  void lex_number() {
    const size_t begin = position_;
    const char second = begin + 1 < text_.size() ? static_cast<char>(text_[begin + 1] | 0x20) : '\0';
    if (text_[begin] == '0' && (second == 'x' || second == 'o' || second == 'b')) {
      position_ = begin + 2;
      while (position_ < text_.size() && is_name_part(text_[position_])) ++position_;
      return add(Token::Type::integer, without_underscores(begin, position_), begin);
    }
    const bool after_dot =
        !tokens_.empty() && tokens_.back().type == Token::Type::op && tokens_.back().value == ".";
    const auto digit_at = [&](size_t i) { return i < text_.size() && is_digit(text_[i]); };
    size_t i = skip_digits(begin);
    bool real = false;
    if (!after_dot && i < text_.size() && text_[i] == '.' && digit_at(i + 1)) {
      i = skip_digits(i + 1);
      real = true;
    }
    if (!after_dot && i < text_.size() && (text_[i] | 0x20) == 'e') {
      const bool sign = i + 1 < text_.size() && (text_[i + 1] == '-' || text_[i + 1] == '+');
      if (digit_at(i + 1 + sign)) {
        i = skip_digits(i + 1 + sign);
        real = true;
      }
    }
    position_ = i;
    add(real ? Token::Type::real : Token::Type::integer, without_underscores(begin, i), begin);
  }

  std::string without_underscores(size_t begin, size_t end) const {
    std::string digits = text_.substr(begin, end - begin);
    std::erase(digits, '_');
    return digits;
  }

  void lex_string() {
    const size_t begin = position_;
    const char quote = text_[begin];
    std::string value;
    size_t i = begin + 1;
    while (i < text_.size() && text_[i] != quote) {
      if (text_[i] == '\\' && i + 1 < text_.size()) {
        i = unescape(i, value);
      } else {
        value += text_[i++];
      }
    }
    if (i >= text_.size()) raise_syntax(place(begin), "expected {} to end this string", quote);
    position_ = i + 1;
    add(Token::Type::string, std::move(value), begin);
  }

  /// Python's escapes; one that it does not know stays as it is. Returns the position after it.
  size_t unescape(size_t backslash, std::string& value) {
    static constexpr std::string_view kNames = "ntrbfva\\'\"";
    static constexpr std::string_view kMeans = "\n\t\r\b\f\v\a\\'\"";
    const char c = text_[backslash + 1];
    const size_t next = backslash + 2;
    if (const size_t i = kNames.find(c); i != std::string_view::npos) {
      value += kMeans[i];
      return next;
    }
    if (c == '\n') return next;
    if (c == 'x' || c == 'u' || c == 'U')
      return unescape_hex(backslash, c == 'x' ? 2 : c == 'u' ? 4 : 8, value);
    if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      size_t i = next - 1;
      for (; i < next + 2 && i < text_.size() && text_[i] >= '0' && text_[i] <= '7'; ++i) {
        code = code * 8 + static_cast<uint32_t>(text_[i] - '0');
      }
      add_character(value, code);
      return i;
    }
    value += '\\';
    return next - 1;
  }

  size_t unescape_hex(size_t backslash, size_t digits, std::string& value) {
    uint32_t code = read_hex(backslash, digits);
    size_t next = backslash + 2 + digits;
    // Two escapes that are the halves of one character, as JSON writes it.
    if (code >= 0xD800 && code < 0xDC00 && std::string_view(text_).substr(next, 2) == "\\u") {
      const uint32_t low = read_hex(next, 4);
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        next += 6;
      }
    }
    add_character(value, code);
    return next;
  }

  uint32_t read_hex(size_t backslash, size_t digits) {
    uint32_t code = 0;
    for (size_t i = backslash + 2; i < backslash + 2 + digits; ++i) {
      const char c = i < text_.size() ? text_[i] : '\0';
      const char low = static_cast<char>(c | 0x20);
      if (!is_digit(c) && !(low >= 'a' && low <= 'f')) {
        raise_syntax(place(backslash), "expected {} hexadecimal digits after this escape", digits);
      }
      code = code * 16 + static_cast<uint32_t>(is_digit(c) ? c - '0' : low - 'a' + 10);
    }
    return code;
  }

  void lex_operator(std::string& brackets) {
    static constexpr std::array<std::string_view, 6> kPairs = {"==", "!=", "<=", ">=", "//", "**"};
    const std::string_view two = rest().substr(0, 2);
    if (std::find(kPairs.begin(), kPairs.end(), two) != kPairs.end()) {
      add(Token::Type::op, std::string(two), position_);
      position_ += 2;
      return;
    }
    const char c = text_[position_];
    if (std::string_view("+-*/%~<>=.,:|()[]{};").find(c) == std::string_view::npos) {
      const size_t next = character(text_, position_).next;
      raise_syntax(place(position_), "unexpected character '{}'", text_.substr(position_, next - position_));
    }
    if (c == '(') brackets += ')';
    if (c == '[') brackets += ']';
    if (c == '{') brackets += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty()) raise_syntax(place(position_), "unexpected '{}'", c);
      if (brackets.back() != c)
        raise_syntax(place(position_), "expected '{}', found '{}'", brackets.back(), c);
      brackets.pop_back();
    }
    add(Token::Type::op, std::string(1, c), position_);
    ++position_;
  }

  const std::string text_;
  size_t position_ = 0;
  size_t counted_ = 0;
  Position place_;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace quern::jinja
