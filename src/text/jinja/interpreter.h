// Walks the syntax tree and writes the text.
#pragma once

#include <ctime>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "text/jinja/arguments.h"
#include "text/jinja/ast.h"
#include "text/jinja/value.h"

namespace quern::jinja {

/// The local time that `strftime_now` prints.
using Clock = std::function<std::tm()>;

/// One rendering: throws TemplateError, whose place is then position().
class Interpreter {
 public:
  Interpreter(const Limits& limits, Clock clock) : heap_(limits), clock_(std::move(clock)) {}

  std::string render(const Block& block, const nlohmann::ordered_json& variables);
  Position position() const { return at_; }

  // For filters, tests, methods and functions:
  Heap& heap() { return heap_; }
  std::tm now() const { return clock_(); }
  Value call(const Value& callee, Arguments& arguments);
  Value filter(std::string_view name, const Value& operand, Arguments& arguments);
  bool test(std::string_view name, const Value& operand, Arguments& arguments);
  /// object[index] and object.name: undefined when it has none.
  Value item(const Value& object, const Value& index);
  Value attribute(const Value& object, std::string_view name);

 private:
  enum class Flow : uint8_t { normal, next, leave };  // how a block ended: `continue` and `break`
  class Level;

  Flow run(const Block& block, Scope& scope, Text& out);
  Flow run(const Statement& statement, Scope& scope, Text& out);
  Flow run_if(const IfStatement& statement, Scope& scope, Text& out);
  Flow run_for(const ForStatement& statement, Scope& scope, Text& out);
  Flow run_loop(const ForStatement& statement, const Value& source, size_t depth0, Scope& scope, Text& out);
  Flow run_with(const WithStatement& statement, Scope& scope, Text& out);
  void run_print(const PrintStatement& statement, Scope& scope, Text& out);
  void run_set(const SetStatement& statement, Scope& scope);
  void run_set_block(const SetBlockStatement& statement, Scope& scope);
  void run_call_block(const CallBlockStatement& statement, Scope& scope, Text& out);
  void run_filter_block(const FilterBlockStatement& statement, Scope& scope, Text& out);
  /// The text of a block, run in a scope of its own.
  Value capture(const Block& block, Scope& scope);
  Value apply(const std::vector<std::unique_ptr<FilterExpression>>& filters, Value value, Scope& scope);
  void assign(const Expression& target, const Value& value, Scope& scope);

  Value evaluate(const Expression& expression, Scope& scope);
  Value evaluate_name(const NameExpression& name, Scope& scope);
  Value evaluate_list(const ListExpression& list, Scope& scope);
  Value evaluate_dict(const DictExpression& dict, Scope& scope);
  Value evaluate_negate(const NegateExpression& negate, Scope& scope);
  Value evaluate_math(const MathExpression& math, Scope& scope);
  Value evaluate_logic(const LogicExpression& logic, Scope& scope);
  Value evaluate_comparison(const CompareExpression& comparison, Scope& scope);
  Value evaluate_conditional(const ConditionalExpression& conditional, Scope& scope);
  Value evaluate_slice(const SliceExpression& slice, Scope& scope);
  Value evaluate_call(const CallExpression& call, Scope& scope, const Value* caller = nullptr);
  Value evaluate_filter(const FilterExpression& filter, const Value& operand, Scope& scope);
  Value evaluate_test(const TestExpression& test, Scope& scope);
  void evaluate_arguments(const ArgumentList& list, Arguments& arguments, Scope& scope);
  bool compare_values(CompareOperator op, const Value& a, const Value& b);

  Value call_builtin(Builtin builtin, const Value& self, Arguments& arguments);
  Value call_macro(const Function& function, Arguments& arguments);
  Value call_loop(const Loop& loop, Arguments& arguments);
  void bind(const Function& function, Arguments& arguments, Scope& scope);

  Heap heap_;
  Clock clock_;
  Position at_;
  size_t depth_ = 0;
};

}  // namespace quern::jinja
