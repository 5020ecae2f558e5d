// Tokens → expressions, with Jinja2's precedences; the base of the parser of statements.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"
#include "text/jinja/parser.h"

namespace quern::jinja {

/// For messages.
std::string describe(const Token& token);

class ExpressionParser {
 protected:
  using Type = Token::Type;

  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  /// Counts how deep the parser stands.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser) : parser_(parser) {
      if (++parser_.nesting_ > kMaxNesting) parser_.too_deep(parser_.peek().at);
    }
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser& parser_;
  };

  [[noreturn]] static void too_deep(Position at) {
    raise_syntax(at, "nested deeper than {} levels", kMaxNesting);
  }
  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(next_ + ahead, tokens_.size() - 1)]; }
  const Token& take() {
    const Token& token = peek();
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool is_op(std::string_view op, size_t ahead = 0) const {
    return peek(ahead).type == Type::op && peek(ahead).value == op;
  }
  bool is_word(std::string_view word, size_t ahead = 0) const {
    return peek(ahead).type == Type::name && peek(ahead).value == word;
  }
  bool take_op(std::string_view op) {
    if (!is_op(op)) return false;
    take();
    return true;
  }
  bool take_word(std::string_view word) {
    if (!is_word(word)) return false;
    take();
    return true;
  }
  void expect_op(std::string_view op) {
    if (!take_op(op)) raise_syntax(peek().at, "expected '{}', found {}", op, describe(peek()));
  }
  void expect_word(std::string_view word) {
    if (!take_word(word)) raise_syntax(peek().at, "expected '{}', found {}", word, describe(peek()));
  }
  std::string expect_name(std::string_view what) {
    if (peek().type != Type::name) raise_syntax(peek().at, "expected {}, found {}", what, describe(peek()));
    return take().value;
  }
  void expect_block_end() {
    if (peek().type != Type::block_end) {
      raise_syntax(peek().at, "expected the end of the tag, found {}", describe(peek()));
    }
    take();
  }

  /// a, b, c without parentheses is a tuple; a alone is a.
  ExpressionPtr parse_tuple(bool conditional = true);
  ExpressionPtr parse_expression();
  std::unique_ptr<FilterExpression> parse_filter(ExpressionPtr operand);

 private:
  /// Records that `child` hangs below `parent`.
  template <class Parent>
  static void adopt(Parent& parent, const ExpressionPtr& child) {
    if (!child) return;
    if (child->depth >= kMaxNesting) too_deep(child->at);
    parent.depth = std::max<uint16_t>(parent.depth, child->depth + 1);
  }
  template <class Parent>
  static void adopt_arguments(Parent& parent) {
    for (const auto& argument : parent.arguments.positional) adopt(parent, argument);
    for (const auto& [name, argument] : parent.arguments.named) adopt(parent, argument);
    adopt(parent, parent.arguments.more_positional);
    adopt(parent, parent.arguments.more_named);
  }

  ExpressionPtr parse_item(bool conditional);
  /// or, then and.
  ExpressionPtr parse_logic(bool all);
  ExpressionPtr parse_not();
  std::optional<CompareOperator> take_compare_operator();
  ExpressionPtr parse_compare();
  /// The operators of one level of precedence: + −, then ~, then * / // %, then **. All bind from the left.
  std::optional<MathOperator> take_math_operator(int level);
  ExpressionPtr parse_math(int level);
  /// −x|abs is (−x)|abs, −x.y is −(x.y).
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_filters(ExpressionPtr value);
  /// a.b names a filter or test as well.
  std::string parse_dotted_name(std::string_view what);
  ExpressionPtr parse_test(ExpressionPtr operand);
  bool starts_test_argument() const;
  ExpressionPtr parse_call(ExpressionPtr callee);
  ArgumentList parse_arguments();
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_attribute(ExpressionPtr object);
  ExpressionPtr parse_subscript(ExpressionPtr object);
  ExpressionPtr literal(Position at, Value value);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_string();
  ExpressionPtr parse_integer();
  ExpressionPtr parse_parenthesis();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();

 protected:
  std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0;
  std::vector<MacroStatement*> macros_;  // whose bodies are being read
};

}  // namespace quern::jinja
