// .env files, as dotenv users write them.
#include <cctype>

#include "config/config.h"

namespace quern {
namespace {

bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '-';
}
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/// Reads the text once, front to back.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {
    if (text_.starts_with("\xef\xbb\xbf")) text_.remove_prefix(3);
  }

  Result<std::map<std::string, std::string>> read() {
    std::map<std::string, std::string> values;
    while (at_ < text_.size()) {
      skip_blanks();
      if (!end_of_line() && peek() != '#') {
        QUERN_TRY(std::string name, read_name());
        QUERN_TRY(std::string value, read_value(name));
        values[std::move(name)] = std::move(value);
      }
      skip_line();
    }
    return values;
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool end_of_line() const { return at_ >= text_.size() || text_[at_] == '\n'; }
  void skip_blanks() {
    while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
  }
  void skip_line() {
    while (!end_of_line()) ++at_;
    if (at_ < text_.size()) ++at_;
    ++line_;
  }

  Result<std::string> read_name() {
    const size_t start = at_;
    if (text_.substr(at_).starts_with("export") && is_blank(peek(6))) {
      at_ += 6;
      skip_blanks();
    }
    const size_t begin = at_;
    if (is_name_start(peek()))
      while (at_ < text_.size() && is_name(text_[at_])) ++at_;
    std::string name(text_.substr(begin, at_ - begin));
    skip_blanks();
    if (name.empty() || (peek() != '=' && !(peek() == ':' && is_blank(peek(1))))) {
      std::string_view rest = text_.substr(start);
      rest = rest.substr(0, std::min({rest.find('\n'), rest.find('\r'), size_t{40}}));
      return fail(ErrorCode::invalid_argument, "line {}: \"{}\": NAME=value expected", line_, rest);
    }
    ++at_;
    skip_blanks();
    return name;
  }

  Result<std::string> read_value(const std::string& name) {
    const char c = peek();
    if (c == '"' || c == '\'' || c == '`') return read_quoted(name, c);
    if (c == '\\' && (peek(1) == '"' || peek(1) == '\'')) return read_escaped_quotes(peek(1));
    return read_bare();
  }

  /// Up to the matching quote, over lines if need be. Escapes count in double quotes only.
  Result<std::string> read_quoted(const std::string& name, char quote) {
    const int first_line = line_;
    std::string value;
    for (++at_; at_ < text_.size(); ++at_) {
      char c = text_[at_];
      if (c == quote) {
        ++at_;
        return finish_quoted(name, std::move(value));
      }
      if (c == '\n') ++line_;
      if (c == '\r' && peek(1) == '\n') continue;
      if (c == '\\' && quote == '"' && at_ + 1 < text_.size()) {
        const char next = text_[++at_];
        if (next == 'n')
          c = '\n';
        else if (next == 'r')
          c = '\r';
        else if (next == 't')
          c = '\t';
        else if (next == '"' || next == '\\' || next == '$' || next == '\'' || next == '`')
          c = next;
        else
          value += '\\', c = next;
      }
      value += c;
    }
    return fail(ErrorCode::invalid_argument, "line {}: {}: the opening {} has no closing one", first_line,
                name, quote);
  }

  Result<std::string> finish_quoted(const std::string& name, std::string value) {
    skip_blanks();
    if (end_of_line() || peek() == '#') return value;
    return fail(ErrorCode::invalid_argument, "line {}: {}: text after the closing quote", line_, name);
  }

  /// KEY=\"value\": quotes that some tool escaped once too often; they belong to the syntax all the same.
  std::string read_escaped_quotes(char quote) {
    const size_t begin = at_ + 2;
    const std::string end{'\\', quote};
    const size_t line_end = std::min(text_.find('\n', at_), text_.size());
    const size_t close = text_.find(end, begin);
    if (close == std::string_view::npos || close >= line_end) return read_bare();
    at_ = close + 2;
    return std::string(text_.substr(begin, close - begin));
  }

  /// To the end of the line or to a comment, which begins with a blank and #.
  std::string read_bare() {
    const size_t begin = at_;
    while (!end_of_line() && !(peek() == '#' && (at_ == begin || is_blank(text_[at_ - 1])))) ++at_;
    size_t end = at_;
    while (end > begin && is_blank(text_[end - 1])) --end;
    return std::string(text_.substr(begin, end - begin));
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

Result<std::map<std::string, std::string>> parse_dotenv(std::string_view text) {
  if (text.find('\0') != std::string_view::npos)
    return fail(ErrorCode::invalid_argument, "contains a NUL byte: is this a text file?");
  return Reader(text).read();
}

}  // namespace quern
