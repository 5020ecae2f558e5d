#include "text/jinja/parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <initializer_list>

#include "text/jinja/lexer.h"

namespace quern::jinja {
namespace {

using Type = Token::Type;

std::string describe(const Token& token) {
  switch (token.type) {
    case Type::text:
      return "text";
    case Type::print_begin:
      return "'{{'";
    case Type::print_end:
      return "the end of the expression";
    case Type::block_begin:
      return "'{%'";
    case Type::block_end:
      return "the end of the tag";
    case Type::string:
      return "a string";
    case Type::end:
      return "the end of the template";
    default:
      return fmt::format("'{}'", token.value);
  }
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Block run() {
    Block block = parse_block({});
    if (peek().type != Type::end) unexpected_block();
    return block;
  }

 private:
  /// Counts how deep the parser stands.
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser_.nesting_ > kMaxNesting) parser_.too_deep(parser_.peek().at);
    }
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser& parser_;
  };

  [[noreturn]] static void too_deep(Position at) {
    raise_syntax(at, "nested deeper than {} levels", kMaxNesting);
  }

  // --- Tokens
  // -------------------------------------------------------------------------------------------------

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

  // --- Statements
  // ---------------------------------------------------------------------------------------------

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
    if (is_word("recursive")) raise_syntax(peek().at, "recursive loops are not supported");
    expect_block_end();
    ++loops_;
    statement->body = parse_block({"else", "endfor"});
    --loops_;
    if (at_block({"else"})) {
      take();
      take();
      expect_block_end();
      statement->otherwise = parse_block({"endfor"});
    }
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

  // --- Expressions
  // --------------------------------------------------------------------------------------------

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

  /// a, b, c without parentheses is a tuple; a alone is a.
  ExpressionPtr parse_tuple(bool conditional = true) {
    const Position at = peek().at;
    ExpressionPtr first = parse_item(conditional);
    if (!is_op(",")) return first;
    auto tuple = std::make_unique<ListExpression>(at);
    tuple->list_kind = List::Kind::tuple;
    adopt(*tuple, first);
    tuple->items.push_back(std::move(first));
    while (take_op(",")) {
      if (peek().type == Type::print_end || peek().type == Type::block_end || is_op(")")) break;
      tuple->items.push_back(parse_item(conditional));
      adopt(*tuple, tuple->items.back());
    }
    return tuple;
  }

  ExpressionPtr parse_item(bool conditional) {
    if (conditional) return parse_expression();
    const Nesting nesting(*this);
    return parse_logic(false);
  }

  ExpressionPtr parse_expression() {
    const Nesting nesting(*this);
    ExpressionPtr value = parse_logic(false);
    while (is_word("if")) {
      auto conditional = std::make_unique<ConditionalExpression>(take().at);
      conditional->then = std::move(value);
      conditional->condition = parse_logic(false);
      if (take_word("else")) conditional->otherwise = parse_expression();
      adopt(*conditional, conditional->then);
      adopt(*conditional, conditional->condition);
      adopt(*conditional, conditional->otherwise);
      value = std::move(conditional);
    }
    return value;
  }

  /// or, then and.
  ExpressionPtr parse_logic(bool all) {
    const std::string_view word = all ? "and" : "or";
    const auto operand = [&] { return all ? parse_not() : parse_logic(true); };
    const Position at = peek().at;
    ExpressionPtr first = operand();
    if (!is_word(word)) return first;
    auto logic = std::make_unique<LogicExpression>(at);
    logic->all = all;
    adopt(*logic, first);
    logic->operands.push_back(std::move(first));
    while (take_word(word)) {
      logic->operands.push_back(operand());
      adopt(*logic, logic->operands.back());
    }
    return logic;
  }

  ExpressionPtr parse_not() {
    if (!is_word("not")) return parse_compare();
    const Nesting nesting(*this);
    auto negate = std::make_unique<NegateExpression>(take().at);
    negate->op = NegateExpression::Operator::logical;
    negate->operand = parse_not();
    adopt(*negate, negate->operand);
    return negate;
  }

  std::optional<CompareOperator> take_compare_operator() {
    static constexpr std::pair<std::string_view, CompareOperator> kOperators[] = {
        {"==", CompareOperator::equal},      {"!=", CompareOperator::not_equal},
        {"<=", CompareOperator::less_equal}, {">=", CompareOperator::greater_equal},
        {"<", CompareOperator::less},        {">", CompareOperator::greater}};
    for (const auto& [text, op] : kOperators) {
      if (take_op(text)) return op;
    }
    if (take_word("in")) return CompareOperator::in;
    if (is_word("not") && is_word("in", 1)) {
      take();
      take();
      return CompareOperator::not_in;
    }
    return std::nullopt;
  }

  ExpressionPtr parse_compare() {
    const Position at = peek().at;
    ExpressionPtr first = parse_math(0);
    std::optional<CompareOperator> op = take_compare_operator();
    if (!op) return first;
    auto comparison = std::make_unique<CompareExpression>(at);
    adopt(*comparison, first);
    comparison->first = std::move(first);
    for (; op; op = take_compare_operator()) {
      comparison->rest.emplace_back(*op, parse_math(0));
      adopt(*comparison, comparison->rest.back().second);
    }
    return comparison;
  }

  /// The operators of one level of precedence: + −, then ~, then * / // %, then **. All bind from the left.
  std::optional<MathOperator> take_math_operator(int level) {
    struct Operator {
      int level;
      std::string_view text;
      MathOperator op;
    };
    static constexpr Operator kOperators[] = {
        {0, "+", MathOperator::add},         {0, "-", MathOperator::subtract},
        {1, "~", MathOperator::concatenate}, {2, "*", MathOperator::multiply},
        {2, "/", MathOperator::divide},      {2, "//", MathOperator::floor_divide},
        {2, "%", MathOperator::modulo},      {3, "**", MathOperator::power}};
    if (peek().type != Type::op) return std::nullopt;
    for (const Operator& candidate : kOperators) {
      if (candidate.level == level && take_op(candidate.text)) return candidate.op;
    }
    return std::nullopt;
  }

  ExpressionPtr parse_math(int level) {
    if (level == 4) return parse_unary(true);
    const Position at = peek().at;
    ExpressionPtr first = parse_math(level + 1);
    std::optional<MathOperator> op = take_math_operator(level);
    if (!op) return first;
    auto math = std::make_unique<MathExpression>(at);
    adopt(*math, first);
    math->first = std::move(first);
    for (; op; op = take_math_operator(level)) {
      math->rest.emplace_back(*op, parse_math(level + 1));
      adopt(*math, math->rest.back().second);
    }
    return math;
  }

  /// −x|abs is (−x)|abs, −x.y is −(x.y).
  ExpressionPtr parse_unary(bool with_filters) {
    ExpressionPtr value;
    if (is_op("-") || is_op("+")) {
      const Nesting nesting(*this);
      auto negate = std::make_unique<NegateExpression>(peek().at);
      negate->op = take().value == "-" ? NegateExpression::Operator::minus : NegateExpression::Operator::plus;
      negate->operand = parse_unary(false);
      adopt(*negate, negate->operand);
      value = std::move(negate);
    } else {
      value = parse_postfix(parse_primary());
    }
    return with_filters ? parse_filters(std::move(value)) : std::move(value);
  }

  ExpressionPtr parse_filters(ExpressionPtr value) {
    while (true) {
      if (take_op("|")) {
        value = parse_filter(std::move(value));
      } else if (is_word("is")) {
        value = parse_test(std::move(value));
      } else if (is_op("(")) {
        value = parse_call(std::move(value));
      } else {
        return value;
      }
    }
  }

  /// a.b names a filter or test as well.
  std::string parse_dotted_name(std::string_view what) {
    std::string name = expect_name(what);
    while (take_op(".")) name += "." + expect_name(what);
    return name;
  }

  std::unique_ptr<FilterExpression> parse_filter(ExpressionPtr operand) {
    auto filter = std::make_unique<FilterExpression>(peek().at);
    filter->operand = std::move(operand);
    filter->name = parse_dotted_name("the name of a filter");
    if (is_op("(")) filter->arguments = parse_arguments();
    adopt(*filter, filter->operand);
    adopt_arguments(*filter);
    return filter;
  }

  ExpressionPtr parse_test(ExpressionPtr operand) {
    auto test = std::make_unique<TestExpression>(take().at);
    test->operand = std::move(operand);
    test->negated = take_word("not");
    test->name = parse_dotted_name("the name of a test");
    if (is_op("(")) {
      test->arguments = parse_arguments();
    } else if (starts_test_argument()) {
      // x is divisibleby 3
      test->arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    adopt(*test, test->operand);
    adopt_arguments(*test);
    return test;
  }

  bool starts_test_argument() const {
    const Token& token = peek();
    if (token.type == Type::name) {
      static constexpr std::string_view kWords[] = {"else", "or",  "and", "if",
                                                    "in",   "not", "is",  "recursive"};
      return std::find(std::begin(kWords), std::end(kWords), token.value) == std::end(kWords);
    }
    return token.type == Type::string || token.type == Type::integer || token.type == Type::real ||
           is_op("[") || is_op("{");
  }

  ExpressionPtr parse_call(ExpressionPtr callee) {
    auto call = std::make_unique<CallExpression>(peek().at);
    call->callee = std::move(callee);
    call->arguments = parse_arguments();
    adopt(*call, call->callee);
    adopt_arguments(*call);
    return call;
  }

  ArgumentList parse_arguments() {
    ArgumentList list;
    expect_op("(");
    while (!take_op(")")) {
      const Position at = peek().at;
      if (take_op("**")) {
        if (list.more_named) raise_syntax(at, "only one '**' is allowed in a call");
        list.more_named = parse_expression();
      } else if (take_op("*")) {
        if (list.more_positional) raise_syntax(at, "only one '*' is allowed in a call");
        list.more_positional = parse_expression();
      } else if (peek().type == Type::name && is_op("=", 1)) {
        std::string name = take().value;
        take();
        list.named.emplace_back(std::move(name), parse_expression());
      } else {
        if (!list.named.empty() || list.more_named)
          raise_syntax(at, "a positional argument follows a named one");
        list.positional.push_back(parse_expression());
      }
      if (!is_op(")")) expect_op(",");
    }
    return list;
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    while (true) {
      if (is_op(".")) {
        value = parse_attribute(std::move(value));
      } else if (is_op("[")) {
        value = parse_subscript(std::move(value));
      } else if (is_op("(")) {
        value = parse_call(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_attribute(ExpressionPtr object) {
    const Position at = take().at;
    if (peek().type == Type::integer) {
      auto item = std::make_unique<ItemExpression>(at);
      item->object = std::move(object);
      item->index = parse_primary();
      adopt(*item, item->object);
      return item;
    }
    auto attribute = std::make_unique<AttributeExpression>(at);
    attribute->object = std::move(object);
    attribute->name = expect_name("the name of an attribute");
    adopt(*attribute, attribute->object);
    return attribute;
  }

  ExpressionPtr parse_subscript(ExpressionPtr object) {
    const Position at = take().at;
    ExpressionPtr parts[3];
    int colons = 0;
    if (is_op("]")) raise_syntax(peek().at, "expected an index or a slice, found ']'");
    while (!is_op("]")) {
      if (is_op(":")) {
        if (++colons > 2) raise_syntax(peek().at, "a slice has at most three parts");
        take();
      } else if (parts[colons]) {
        raise_syntax(peek().at, "expected ']', found {}", describe(peek()));
      } else {
        parts[colons] = colons == 0 ? parse_tuple() : parse_expression();
      }
    }
    take();
    if (colons == 0) {
      auto item = std::make_unique<ItemExpression>(at);
      item->object = std::move(object);
      item->index = std::move(parts[0]);
      adopt(*item, item->object);
      adopt(*item, item->index);
      return item;
    }
    auto slice = std::make_unique<SliceExpression>(at);
    slice->object = std::move(object);
    slice->start = std::move(parts[0]);
    slice->stop = std::move(parts[1]);
    slice->step = std::move(parts[2]);
    for (const ExpressionPtr* part : {&slice->object, &slice->start, &slice->stop, &slice->step})
      adopt(*slice, *part);
    return slice;
  }

  ExpressionPtr literal(Position at, Value value) {
    auto expression = std::make_unique<LiteralExpression>(at);
    expression->value = value;
    return expression;
  }

  ExpressionPtr parse_primary() {
    const Token& token = peek();
    switch (token.type) {
      case Type::name:
        return parse_name();
      case Type::string:
        return parse_string();
      case Type::integer:
        return parse_integer();
      case Type::real:
        take();
        return literal(token.at, std::strtod(token.value.c_str(), nullptr));
      case Type::op:
        if (token.value == "(") return parse_parenthesis();
        if (token.value == "[") return parse_list();
        if (token.value == "{") return parse_dict();
        [[fallthrough]];
      default:
        raise_syntax(token.at, "expected an expression, found {}", describe(token));
    }
  }

  ExpressionPtr parse_name() {
    const Token& token = take();
    const std::string& word = token.value;
    if (word == "true" || word == "True") return literal(token.at, true);
    if (word == "false" || word == "False") return literal(token.at, false);
    if (word == "none" || word == "None") return literal(token.at, None{});
    static constexpr std::string_view kReserved[] = {"and", "or", "not", "in", "is", "if", "else", "elif"};
    if (std::find(std::begin(kReserved), std::end(kReserved), word) != std::end(kReserved)) {
      raise_syntax(token.at, "expected an expression, found '{}'", word);
    }
    for (MacroStatement* macro : macros_) {
      if (word == "varargs") macro->takes_varargs = true;
      if (word == "kwargs") macro->takes_kwargs = true;
    }
    auto name = std::make_unique<NameExpression>(token.at);
    name->name = word;
    return name;
  }

  ExpressionPtr parse_string() {
    auto expression = std::make_unique<LiteralExpression>(peek().at);
    while (peek().type == Type::string) expression->text += take().value;
    expression->value = std::string_view(expression->text);
    return expression;
  }

  ExpressionPtr parse_integer() {
    const Token& token = take();
    std::string_view digits = token.value;
    int base = 10;
    if (digits.size() > 1 && digits[0] == '0' && !(digits[1] >= '0' && digits[1] <= '9')) {
      base = (digits[1] | 0x20) == 'x' ? 16 : (digits[1] | 0x20) == 'o' ? 8 : 2;
      digits.remove_prefix(2);
    }
    int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (error == std::errc::result_out_of_range)
      raise_syntax(token.at, "the integer {} is too large", token.value);
    if (error != std::errc{} || end != digits.data() + digits.size()) {
      raise_syntax(token.at, "'{}' is not a number", token.value);
    }
    return literal(token.at, value);
  }

  ExpressionPtr parse_parenthesis() {
    const Nesting nesting(*this);
    const Position at = take().at;
    if (take_op(")")) {
      auto tuple = std::make_unique<ListExpression>(at);
      tuple->list_kind = List::Kind::tuple;
      return tuple;
    }
    ExpressionPtr inner = parse_tuple();
    expect_op(")");
    return inner;
  }

  ExpressionPtr parse_list() {
    const Nesting nesting(*this);
    auto list = std::make_unique<ListExpression>(take().at);
    while (!take_op("]")) {
      list->items.push_back(parse_expression());
      adopt(*list, list->items.back());
      if (!is_op("]")) expect_op(",");
    }
    return list;
  }

  ExpressionPtr parse_dict() {
    const Nesting nesting(*this);
    auto dict = std::make_unique<DictExpression>(take().at);
    while (!take_op("}")) {
      ExpressionPtr key = parse_expression();
      expect_op(":");
      ExpressionPtr value = parse_expression();
      adopt(*dict, key);
      adopt(*dict, value);
      dict->items.emplace_back(std::move(key), std::move(value));
      if (!is_op("}")) expect_op(",");
    }
    return dict;
  }

  std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  std::vector<MacroStatement*> macros_;
};

}  // namespace

Block parse_template(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace quern::jinja
