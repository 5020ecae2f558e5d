#include "text/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace quern::jinja {

std::string describe(const Token& token) {
  using Type = Token::Type;
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

ExpressionPtr ExpressionParser::parse_tuple(bool conditional) {
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

ExpressionPtr ExpressionParser::parse_item(bool conditional) {
  if (conditional) return parse_expression();
  const Nesting nesting(*this);
  return parse_logic(false);
}

ExpressionPtr ExpressionParser::parse_expression() {
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

ExpressionPtr ExpressionParser::parse_logic(bool all) {
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

ExpressionPtr ExpressionParser::parse_not() {
  if (!is_word("not")) return parse_compare();
  const Nesting nesting(*this);
  auto negate = std::make_unique<NegateExpression>(take().at);
  negate->op = NegateExpression::Operator::logical;
  negate->operand = parse_not();
  adopt(*negate, negate->operand);
  return negate;
}

std::optional<CompareOperator> ExpressionParser::take_compare_operator() {
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

ExpressionPtr ExpressionParser::parse_compare() {
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

std::optional<MathOperator> ExpressionParser::take_math_operator(int level) {
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

ExpressionPtr ExpressionParser::parse_math(int level) {
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

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
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

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr value) {
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

std::string ExpressionParser::parse_dotted_name(std::string_view what) {
  std::string name = expect_name(what);
  while (take_op(".")) name.append(".").append(expect_name(what));
  return name;
}

std::unique_ptr<FilterExpression> ExpressionParser::parse_filter(ExpressionPtr operand) {
  auto filter = std::make_unique<FilterExpression>(peek().at);
  filter->operand = std::move(operand);
  filter->name = parse_dotted_name("the name of a filter");
  if (is_op("(")) filter->arguments = parse_arguments();
  adopt(*filter, filter->operand);
  adopt_arguments(*filter);
  return filter;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr operand) {
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

bool ExpressionParser::starts_test_argument() const {
  const Token& token = peek();
  if (token.type == Type::name) {
    static constexpr std::string_view kWords[] = {"else", "or", "and", "if", "in", "not", "is", "recursive"};
    return std::find(std::begin(kWords), std::end(kWords), token.value) == std::end(kWords);
  }
  return token.type == Type::string || token.type == Type::integer || token.type == Type::real ||
         is_op("[") || is_op("{");
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr callee) {
  auto call = std::make_unique<CallExpression>(peek().at);
  call->callee = std::move(callee);
  call->arguments = parse_arguments();
  adopt(*call, call->callee);
  adopt_arguments(*call);
  return call;
}

ArgumentList ExpressionParser::parse_arguments() {
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

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr value) {
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

ExpressionPtr ExpressionParser::parse_attribute(ExpressionPtr object) {
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

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr object) {
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

ExpressionPtr ExpressionParser::literal(Position at, Value value) {
  auto expression = std::make_unique<LiteralExpression>(at);
  expression->value = value;
  return expression;
}

ExpressionPtr ExpressionParser::parse_primary() {
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

ExpressionPtr ExpressionParser::parse_name() {
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

ExpressionPtr ExpressionParser::parse_string() {
  auto expression = std::make_unique<LiteralExpression>(peek().at);
  while (peek().type == Type::string) expression->text += take().value;
  expression->value = std::string_view(expression->text);
  return expression;
}

ExpressionPtr ExpressionParser::parse_integer() {
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

ExpressionPtr ExpressionParser::parse_parenthesis() {
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

ExpressionPtr ExpressionParser::parse_list() {
  const Nesting nesting(*this);
  auto list = std::make_unique<ListExpression>(take().at);
  while (!take_op("]")) {
    list->items.push_back(parse_expression());
    adopt(*list, list->items.back());
    if (!is_op("]")) expect_op(",");
  }
  return list;
}

ExpressionPtr ExpressionParser::parse_dict() {
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

}  // namespace quern::jinja
