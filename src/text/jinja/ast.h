// The syntax tree of a template. Immutable once parsed. Its depth is bounded by the parser, so that walking
// and destroying it may recurse.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/jinja/error.h"
#include "text/jinja/value.h"

namespace quern::jinja {

struct Expression {
  enum class Kind : uint8_t {
    literal,
    name,
    list,
    dict,
    negate,
    math,
    logic,
    comparison,
    conditional,
    attribute,
    item,
    slice,
    call,
    filter,
    test,
  };
  explicit Expression(Kind kind, Position at) : kind(kind), at(at) {}
  virtual ~Expression() = default;
  const Kind kind;
  uint16_t depth = 1;  // of this tree
  Position at;
};
using ExpressionPtr = std::unique_ptr<Expression>;

struct LiteralExpression : Expression {
  explicit LiteralExpression(Position at) : Expression(Kind::literal, at) {}
  std::string text;  // what `value` views, if it is a string
  Value value;
};

struct NameExpression : Expression {
  explicit NameExpression(Position at) : Expression(Kind::name, at) {}
  std::string name;
};

struct ListExpression : Expression {
  explicit ListExpression(Position at) : Expression(Kind::list, at) {}
  List::Kind list_kind = List::Kind::list;
  std::vector<ExpressionPtr> items;
};

struct DictExpression : Expression {
  explicit DictExpression(Position at) : Expression(Kind::dict, at) {}
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> items;
};

/// −x or +x (`plus`) or `not x` (`logical`).
struct NegateExpression : Expression {
  explicit NegateExpression(Position at) : Expression(Kind::negate, at) {}
  enum class Operator : uint8_t { minus, plus, logical } op = Operator::minus;
  ExpressionPtr operand;
};

enum class MathOperator : uint8_t {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concatenate
};

/// first op operand op operand …, from the left: one node for a chain, however long.
struct MathExpression : Expression {
  explicit MathExpression(Position at) : Expression(Kind::math, at) {}
  ExpressionPtr first;
  std::vector<std::pair<MathOperator, ExpressionPtr>> rest;
};

/// operand and operand …, or operand or operand …
struct LogicExpression : Expression {
  explicit LogicExpression(Position at) : Expression(Kind::logic, at) {}
  bool all = true;  // `and`
  std::vector<ExpressionPtr> operands;
};

enum class CompareOperator : uint8_t {
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in
};

/// a < b < c is (a < b) and (b < c).
struct CompareExpression : Expression {
  explicit CompareExpression(Position at) : Expression(Kind::comparison, at) {}
  ExpressionPtr first;
  std::vector<std::pair<CompareOperator, ExpressionPtr>> rest;
};

struct ConditionalExpression : Expression {
  explicit ConditionalExpression(Position at) : Expression(Kind::conditional, at) {}
  ExpressionPtr condition, then, otherwise;  // `otherwise` may be missing
};

struct AttributeExpression : Expression {
  explicit AttributeExpression(Position at) : Expression(Kind::attribute, at) {}
  ExpressionPtr object;
  std::string name;
};

struct ItemExpression : Expression {
  explicit ItemExpression(Position at) : Expression(Kind::item, at) {}
  ExpressionPtr object, index;
};

struct SliceExpression : Expression {
  explicit SliceExpression(Position at) : Expression(Kind::slice, at) {}
  ExpressionPtr object, start, stop, step;  // the last three may be missing
};

struct ArgumentList {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr more_positional;  // *list
  ExpressionPtr more_named;       // **dict
};

struct CallExpression : Expression {
  explicit CallExpression(Position at) : Expression(Kind::call, at) {}
  ExpressionPtr callee;
  ArgumentList arguments;
};

struct FilterExpression : Expression {
  explicit FilterExpression(Position at) : Expression(Kind::filter, at) {}
  ExpressionPtr operand;  // missing in a filter block: there the block's text stands for it
  std::string name;
  ArgumentList arguments;
};

struct TestExpression : Expression {
  explicit TestExpression(Position at) : Expression(Kind::test, at) {}
  ExpressionPtr operand;
  std::string name;
  bool negated = false;
  ArgumentList arguments;
};

struct Statement {
  enum class Kind : uint8_t {
    text,
    print,
    branch,
    loop,
    assign,
    assign_block,
    macro,
    call_block,
    filter_block,
    with,
    evaluate,
    leave,
  };
  explicit Statement(Kind kind, Position at) : kind(kind), at(at) {}
  virtual ~Statement() = default;
  const Kind kind;
  Position at;
};
using StatementPtr = std::unique_ptr<Statement>;
using Block = std::vector<StatementPtr>;

struct TextStatement : Statement {
  explicit TextStatement(Position at) : Statement(Kind::text, at) {}
  std::string text;
};

struct PrintStatement : Statement {
  explicit PrintStatement(Position at) : Statement(Kind::print, at) {}
  ExpressionPtr value;
};

struct IfStatement : Statement {
  explicit IfStatement(Position at) : Statement(Kind::branch, at) {}
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block otherwise;
};

struct ForStatement : Statement {
  explicit ForStatement(Position at) : Statement(Kind::loop, at) {}
  ExpressionPtr target;  // a name or a tuple of targets
  ExpressionPtr items;
  ExpressionPtr condition;  // may be missing
  bool recursive = false;
  Block body, otherwise;
};

struct SetStatement : Statement {
  explicit SetStatement(Position at) : Statement(Kind::assign, at) {}
  ExpressionPtr target;  // a name, an attribute of a name, or a tuple of targets
  ExpressionPtr value;
};

struct SetBlockStatement : Statement {
  explicit SetBlockStatement(Position at) : Statement(Kind::assign_block, at) {}
  ExpressionPtr target;
  std::vector<std::unique_ptr<FilterExpression>> filters;
  Block body;
};

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  // may be missing
};

struct MacroStatement : Statement {
  explicit MacroStatement(Position at) : Statement(Kind::macro, at) {}
  std::string name;
  std::vector<Parameter> parameters;
  bool takes_varargs = false, takes_kwargs = false;  // the body reads `varargs`, `kwargs`
  Block body;
};

struct CallBlockStatement : Statement {
  explicit CallBlockStatement(Position at) : Statement(Kind::call_block, at) {}
  ExpressionPtr call;
  std::unique_ptr<MacroStatement> body;  // what `caller()` renders
};

struct FilterBlockStatement : Statement {
  explicit FilterBlockStatement(Position at) : Statement(Kind::filter_block, at) {}
  std::vector<std::unique_ptr<FilterExpression>> filters;
  Block body;
};

/// A block with variables of its own: `with`, and `generation`, `block`, `autoescape` which only group.
struct WithStatement : Statement {
  explicit WithStatement(Position at) : Statement(Kind::with, at) {}
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;
  Block body;
};

/// `do`: for its effect.
struct DoStatement : Statement {
  explicit DoStatement(Position at) : Statement(Kind::evaluate, at) {}
  ExpressionPtr value;
};

struct LeaveStatement : Statement {
  explicit LeaveStatement(Position at) : Statement(Kind::leave, at) {}
  bool next = false;  // `continue`
};

}  // namespace quern::jinja
