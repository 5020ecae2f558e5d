#include "text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "text/jinja/expression_parser.h"

namespace quern::jinja {
namespace {

class Parser : ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  Block run() {
    Block block = parse_block({});
    if (peek().type != Type::end) unexpected_block();
    return block;
  }

 private:
  bool at_block(std::initializer_list<std::string_view> words) const {
    if (peek().type != Type::block_begin || peek(1).type != Type::name) return false;
    return std::find(words.begin(), words.end(), peek(1).value) != words.end();
  }

  [[noreturn]] void unexpected_block() {
    const Token& word = peek(1);
    raise_syntax(word.at, "unexpected tag '{}': no block that it belongs to is open", word.value);
  }

  /// Up to a tag that starts with one of `ends`, which stays; or to the end when there are none.
  Block parse_block(std::initializer_list<std::string_view> ends) {
    Block block;
    while (peek().type != Type::end && !at_block(ends)) {
      const Token& token = peek();
      if (token.type == Type::text) {
        auto text = std::make_unique<TextStatement>(token.at);
        text->text = std::move(tokens_[next_].value);
        take();
        block.push_back(std::move(text));
      } else if (token.type == Type::print_begin) {
        block.push_back(parse_print());
      } else {
        if (peek(1).type == Type::name && peek(1).value.starts_with("end") && ends.size() == 0)
          unexpected_block();
        block.push_back(parse_tag());
      }
    }
    return block;
  }

  /// As parse_block, then takes the whole closing tag.
  Block parse_body(std::string_view end, const Token& opened) {
    Block block = parse_block({end});
    close(end, opened);
    return block;
  }

  void close(std::string_view end, const Token& opened) {
    if (peek().type == Type::end) {
      raise_syntax(peek().at, "expected '{{% {} %}}' to end the '{}' of line {}", end, opened.value,
                   opened.at.line);
    }
    take();
    expect_word(end);
    if (peek().type == Type::name) take();  // {% endblock name %}, {% endmacro name %}
    expect_block_end();
  }

  StatementPtr parse_print() {
    auto print = std::make_unique<PrintStatement>(take().at);
    print->value = parse_tuple();
    if (peek().type != Type::print_end) {
      raise_syntax(peek().at, "expected the end of the expression, found {}", describe(peek()));
    }
    take();
    return print;
  }

  StatementPtr parse_tag() {
    const Nesting nesting(*this);
    take();
    if (peek().type != Type::name)
      raise_syntax(peek().at, "expected the name of a tag, found {}", describe(peek()));
    const Token word = take();
    if (word.value == "if") return parse_if(word);
    if (word.value == "for") return parse_for(word);
    if (word.value == "set") return parse_set(word);
    if (word.value == "macro") return parse_macro(word);
    if (word.value == "call") return parse_call_block(word);
    if (word.value == "filter") return parse_filter_block(word);
    if (word.value == "with") return parse_with(word);
    if (word.value == "do") return parse_do(word);
    if (word.value == "break" || word.value == "continue") return parse_leave(word);
    if (word.value == "generation" || word.value == "block" || word.value == "autoescape")
      return parse_group(word);
    if (word.value == "include" || word.value == "import" || word.value == "from" ||
        word.value == "extends") {
      raise_syntax(word.at, "'{}' is not available: a chat template stands alone", word.value);
    }
    raise_syntax(word.at, "unknown or unexpected tag '{}'", word.value);
  }

  StatementPtr parse_if(const Token& word) {
    auto statement = std::make_unique<IfStatement>(word.at);
    while (true) {
      ExpressionPtr condition = parse_tuple();
      expect_block_end();
      Block block = parse_block({"elif", "else", "endif"});
      statement->branches.emplace_back(std::move(condition), std::move(block));
      if (!at_block({"elif"})) break;
      take();
      take();
    }
    if (at_block({"else"})) {
      take();
      take();
      expect_block_end();
      statement->otherwise = parse_block({"endif"});
    }
    close("endif", word);
    return statement;
  }

  StatementPtr parse_for(const Token& word) {
    auto statement = std::make_unique<ForStatement>(word.at);
    statement->target = parse_target(false);
    expect_word("in");
    statement->items = parse_tuple(false);
    if (take_word("if")) statement->condition = parse_expression();
    statement->recursive = take_word("recursive");
    expect_block_end();
    const int around = loops_;
    loops_ = 1;
    statement->body = parse_block({"else", "endfor"});
    // What loop(…) runs cannot leave the loops around it.
    loops_ = statement->recursive ? 0 : around;
    if (at_block({"else"})) {
      take();
      take();
      expect_block_end();
      statement->otherwise = parse_block({"endfor"});
    }
    loops_ = around;
    close("endfor", word);
    return statement;
  }

  StatementPtr parse_set(const Token& word) {
    ExpressionPtr target = parse_target(true);
    if (take_op("=")) {
      auto statement = std::make_unique<SetStatement>(word.at);
      statement->target = std::move(target);
      statement->value = parse_tuple();
      expect_block_end();
      return statement;
    }
    auto statement = std::make_unique<SetBlockStatement>(word.at);
    statement->target = std::move(target);
    while (take_op("|")) statement->filters.push_back(parse_filter(nullptr));
    if (peek().type != Type::block_end) {
      raise_syntax(peek().at, "expected '=' or the end of the tag, found {}", describe(peek()));
    }
    take();
    statement->body = parse_body("endset", word);
    return statement;
  }

  /// What `set` and `for` assign to.
  ExpressionPtr parse_target(bool attributes) {
    const Position at = peek().at;
    ExpressionPtr first = parse_single_target(attributes);
    if (!is_op(",")) return first;
    auto tuple = std::make_unique<ListExpression>(at);
    tuple->list_kind = List::Kind::tuple;
    tuple->items.push_back(std::move(first));
    while (take_op(",")) {
      if (peek().type != Type::name && !is_op("(")) break;
      if (is_word("in")) break;
      tuple->items.push_back(parse_single_target(attributes));
    }
    return tuple;
  }

  ExpressionPtr parse_single_target(bool attributes) {
    const Nesting nesting(*this);
    if (take_op("(")) {
      ExpressionPtr inner = parse_target(attributes);
      expect_op(")");
      return inner;
    }
    auto name = std::make_unique<NameExpression>(peek().at);
    name->name = expect_name("a variable to assign to");
    if (!attributes || !take_op(".")) return name;
    auto attribute = std::make_unique<AttributeExpression>(name->at);
    attribute->object = std::move(name);
    attribute->name = expect_name("an attribute name");
    return attribute;
  }

  StatementPtr parse_macro(const Token& word) {
    auto macro = std::make_unique<MacroStatement>(word.at);
    macro->name = expect_name("the name of the macro");
    expect_op("(");
    parse_parameters(*macro);
    expect_block_end();
    parse_macro_body(*macro, "endmacro", word);
    return macro;
  }

  void parse_parameters(MacroStatement& macro) {
    while (!take_op(")")) {
      Parameter parameter;
      const Position at = peek().at;
      parameter.name = expect_name("a parameter name");
      for (const Parameter& other : macro.parameters) {
        if (other.name == parameter.name) raise_syntax(at, "parameter '{}' is named twice", other.name);
      }
      if (macro.parameters.size() >= 255) raise_syntax(at, "more than 255 parameters");
      if (take_op("=")) {
        parameter.fallback = parse_expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().fallback) {
        raise_syntax(at, "parameter '{}' without a default follows one with a default", parameter.name);
      }
      macro.parameters.push_back(std::move(parameter));
      if (!is_op(")")) expect_op(",");
    }
  }

  void parse_macro_body(MacroStatement& macro, std::string_view end, const Token& word) {
    macros_.push_back(&macro);
    const int loops = std::exchange(loops_, 0);
    macro.body = parse_body(end, word);
    loops_ = loops;
    macros_.pop_back();
  }

  StatementPtr parse_call_block(const Token& word) {
    auto statement = std::make_unique<CallBlockStatement>(word.at);
    statement->body = std::make_unique<MacroStatement>(word.at);
    statement->body->name = "caller";
    if (take_op("(")) parse_parameters(*statement->body);
    const Position at = peek().at;
    statement->call = parse_expression();
    if (statement->call->kind != Expression::Kind::call) raise_syntax(at, "expected a call of a macro");
    expect_block_end();
    parse_macro_body(*statement->body, "endcall", word);
    return statement;
  }

  StatementPtr parse_filter_block(const Token& word) {
    auto statement = std::make_unique<FilterBlockStatement>(word.at);
    do {
      statement->filters.push_back(parse_filter(nullptr));
    } while (take_op("|"));
    expect_block_end();
    statement->body = parse_body("endfilter", word);
    return statement;
  }

  StatementPtr parse_with(const Token& word) {
    auto statement = std::make_unique<WithStatement>(word.at);
    while (peek().type != Type::block_end) {
      if (!statement->assignments.empty()) expect_op(",");
      ExpressionPtr target = parse_single_target(false);
      expect_op("=");
      statement->assignments.emplace_back(std::move(target), parse_expression());
    }
    take();
    statement->body = parse_body("endwith", word);
    return statement;
  }

  StatementPtr parse_do(const Token& word) {
    auto statement = std::make_unique<DoStatement>(word.at);
    statement->value = parse_tuple();
    expect_block_end();
    return statement;
  }

  StatementPtr parse_leave(const Token& word) {
    if (loops_ == 0) raise_syntax(word.at, "'{}' outside of a loop", word.value);
    auto statement = std::make_unique<LeaveStatement>(word.at);
    statement->next = word.value == "continue";
    expect_block_end();
    return statement;
  }

  /// Tags that only mark their content.
  StatementPtr parse_group(const Token& word) {
    auto statement = std::make_unique<WithStatement>(word.at);
    while (peek().type != Type::block_end && peek().type != Type::end) take();
    expect_block_end();
    statement->body = parse_body("end" + word.value, word);
    return statement;
  }

  int loops_ = 0;  // that a `break` here would leave
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace quern::jinja
