#include "text/jinja/interpreter.h"

#include <nlohmann/json.hpp>

#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/json.h"
#include "text/jinja/operators.h"
#include "text/jinja/strings.h"

namespace quern::jinja {

/// One level of evaluation deeper, as long as it lives.
class Interpreter::Level {
 public:
  explicit Level(Interpreter& interpreter) : depth_(interpreter.depth_) {
    const size_t limit = interpreter.heap_.limits().depth;
    if (++depth_ > limit) {
      --depth_;
      raise("evaluation is nested deeper than {} levels; does a macro call itself without end?", limit);
    }
    interpreter.heap_.step();
  }
  ~Level() { --depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  size_t& depth_;
};

std::string Interpreter::render(const Block& block, const nlohmann::ordered_json& variables) {
  if (!variables.is_object()) raise("the variables of a chat template must be a JSON object");
  Scope* globals = heap_.scope(nullptr);
  for (const auto& [name, value] : variables.items()) {
    globals->set(heap_.string(name), from_json(heap_, value), heap_);
  }
  Text out(heap_);
  run(block, *globals, out);
  if (out.view().size() > heap_.limits().output) {
    raise("the prompt is larger than {} MiB", heap_.limits().output >> 20);
  }
  return out.take();
}

// --- Statements ---

Interpreter::Flow Interpreter::run(const Block& block, Scope& scope, Text& out) {
  for (const StatementPtr& statement : block) {
    const Flow flow = run(*statement, scope, out);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Statement& statement, Scope& scope, Text& out) {
  const Level level(*this);
  at_ = statement.at;
  switch (statement.kind) {
    case Statement::Kind::text:
      out.add(static_cast<const TextStatement&>(statement).text);
      break;
    case Statement::Kind::print:
      run_print(static_cast<const PrintStatement&>(statement), scope, out);
      break;
    case Statement::Kind::branch:
      return run_if(static_cast<const IfStatement&>(statement), scope, out);
    case Statement::Kind::loop:
      return run_for(static_cast<const ForStatement&>(statement), scope, out);
    case Statement::Kind::with:
      return run_with(static_cast<const WithStatement&>(statement), scope, out);
    case Statement::Kind::assign:
      run_set(static_cast<const SetStatement&>(statement), scope);
      break;
    case Statement::Kind::assign_block:
      run_set_block(static_cast<const SetBlockStatement&>(statement), scope);
      break;
    case Statement::Kind::macro: {
      const auto& macro = static_cast<const MacroStatement&>(statement);
      scope.set(macro.name, heap_.function({.name = macro.name, .macro = &macro, .scope = &scope}), heap_);
      break;
    }
    case Statement::Kind::call_block:
      run_call_block(static_cast<const CallBlockStatement&>(statement), scope, out);
      break;
    case Statement::Kind::filter_block:
      run_filter_block(static_cast<const FilterBlockStatement&>(statement), scope, out);
      break;
    case Statement::Kind::evaluate:
      evaluate(*static_cast<const DoStatement&>(statement).value, scope);
      break;
    case Statement::Kind::leave:
      return static_cast<const LeaveStatement&>(statement).next ? Flow::next : Flow::leave;
  }
  return Flow::normal;
}

void Interpreter::run_print(const PrintStatement& statement, Scope& scope, Text& out) {
  const Value value = evaluate(*statement.value, scope);
  // Jinja2 would print "None" into the prompt; @huggingface/jinja prints nothing, which is what is meant.
  if (!is_none(value)) out.add(to_string(heap_, value));
}

Interpreter::Flow Interpreter::run_if(const IfStatement& statement, Scope& scope, Text& out) {
  for (const auto& [condition, block] : statement.branches) {
    if (truthy(evaluate(*condition, scope))) return run(block, scope, out);
  }
  return run(statement.otherwise, scope, out);
}

Interpreter::Flow Interpreter::run_for(const ForStatement& statement, Scope& scope, Text& out) {
  const Value source = evaluate(*statement.items, scope);
  at_ = statement.items->at;
  return run_loop(statement, source, 0, scope, out);
}

Interpreter::Flow Interpreter::run_loop(const ForStatement& statement, const Value& source, size_t depth0,
                                        Scope& scope, Text& out) {
  std::vector<Value> items = iterate(heap_, source);
  Scope* inner = heap_.scope(&scope);
  if (statement.condition) {
    std::vector<Value> chosen;
    for (const Value& item : items) {
      inner->clear();
      assign(*statement.target, item, *inner);
      if (truthy(evaluate(*statement.condition, *inner))) chosen.push_back(item);
    }
    items = std::move(chosen);
    inner->clear();
  }
  if (items.empty()) return run(statement.otherwise, *inner, out);
  Loop* loop = heap_.loop();
  loop->items = std::move(items);
  if (statement.recursive) loop->recursive = &statement;
  loop->scope = &scope;
  loop->depth0 = depth0;
  for (size_t i = 0; i < loop->items.size(); ++i) {
    heap_.step();
    loop->index = i;
    inner->clear();
    inner->set("loop", loop, heap_);
    assign(*statement.target, loop->items[i], *inner);
    if (run(statement.body, *inner, out) == Flow::leave) break;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_with(const WithStatement& statement, Scope& scope, Text& out) {
  Scope* inner = heap_.scope(&scope);
  for (const auto& [target, expression] : statement.assignments) {
    assign(*target, evaluate(*expression, scope), *inner);
  }
  return run(statement.body, *inner, out);
}

Value Interpreter::capture(const Block& block, Scope& scope) {
  Text text(heap_);
  run(block, *heap_.scope(&scope), text);
  return text.value();
}

Value Interpreter::apply(const std::vector<std::unique_ptr<FilterExpression>>& filters, Value value,
                         Scope& scope) {
  for (const auto& filter : filters) value = evaluate_filter(*filter, value, scope);
  return value;
}

void Interpreter::run_set(const SetStatement& statement, Scope& scope) {
  assign(*statement.target, evaluate(*statement.value, scope), scope);
}

void Interpreter::run_set_block(const SetBlockStatement& statement, Scope& scope) {
  assign(*statement.target, apply(statement.filters, capture(statement.body, scope), scope), scope);
}

void Interpreter::run_filter_block(const FilterBlockStatement& statement, Scope& scope, Text& out) {
  out.add(to_string(heap_, apply(statement.filters, capture(statement.body, scope), scope)));
}

void Interpreter::run_call_block(const CallBlockStatement& statement, Scope& scope, Text& out) {
  const Value caller =
      heap_.function({.name = statement.body->name, .macro = statement.body.get(), .scope = &scope});
  const Value text = evaluate_call(static_cast<const CallExpression&>(*statement.call), scope, &caller);
  if (!is_none(text)) out.add(to_string(heap_, text));
}

void Interpreter::assign(const Expression& target, const Value& value, Scope& scope) {
  if (target.kind == Expression::Kind::name) {
    scope.set(static_cast<const NameExpression&>(target).name, value, heap_);
    return;
  }
  if (target.kind == Expression::Kind::attribute) {
    const auto& attribute = static_cast<const AttributeExpression&>(target);
    const Value object = evaluate(*attribute.object, scope);
    at_ = target.at;
    const auto* names = as<Namespace*>(object);
    if (names == nullptr) raise("cannot assign the attribute '{}': not a namespace", attribute.name);
    set(heap_, (*names)->attributes, std::string_view(attribute.name), value);
    return;
  }
  const auto& targets = static_cast<const ListExpression&>(target).items;
  at_ = target.at;
  const std::vector<Value> values = iterate(heap_, value);
  if (values.size() != targets.size())
    raise("cannot unpack {} values into {}", values.size(), targets.size());
  for (size_t i = 0; i < targets.size(); ++i) assign(*targets[i], values[i], scope);
}

// --- Expressions ---

Value Interpreter::evaluate(const Expression& expression, Scope& scope) {
  const Level level(*this);
  switch (expression.kind) {
    case Expression::Kind::literal:
      return static_cast<const LiteralExpression&>(expression).value;
    case Expression::Kind::name:
      return evaluate_name(static_cast<const NameExpression&>(expression), scope);
    case Expression::Kind::list:
      return evaluate_list(static_cast<const ListExpression&>(expression), scope);
    case Expression::Kind::dict:
      return evaluate_dict(static_cast<const DictExpression&>(expression), scope);
    case Expression::Kind::negate:
      return evaluate_negate(static_cast<const NegateExpression&>(expression), scope);
    case Expression::Kind::math:
      return evaluate_math(static_cast<const MathExpression&>(expression), scope);
    case Expression::Kind::logic:
      return evaluate_logic(static_cast<const LogicExpression&>(expression), scope);
    case Expression::Kind::comparison:
      return evaluate_comparison(static_cast<const CompareExpression&>(expression), scope);
    case Expression::Kind::conditional:
      return evaluate_conditional(static_cast<const ConditionalExpression&>(expression), scope);
    case Expression::Kind::attribute: {
      const auto& node = static_cast<const AttributeExpression&>(expression);
      const Value object = evaluate(*node.object, scope);
      at_ = node.at;
      return attribute(object, node.name);
    }
    case Expression::Kind::item: {
      const auto& node = static_cast<const ItemExpression&>(expression);
      const Value object = evaluate(*node.object, scope);
      const Value index = evaluate(*node.index, scope);
      at_ = node.at;
      return item(object, index);
    }
    case Expression::Kind::slice:
      return evaluate_slice(static_cast<const SliceExpression&>(expression), scope);
    case Expression::Kind::call:
      return evaluate_call(static_cast<const CallExpression&>(expression), scope);
    case Expression::Kind::filter: {
      const auto& node = static_cast<const FilterExpression&>(expression);
      return evaluate_filter(node, evaluate(*node.operand, scope), scope);
    }
    case Expression::Kind::test:
      return evaluate_test(static_cast<const TestExpression&>(expression), scope);
  }
  return Undefined{};
}

Value Interpreter::evaluate_name(const NameExpression& name, Scope& scope) {
  if (const Value* value = scope.find(name.name, heap_)) return *value;
  if (const Builtin builtin = find_global(name.name)) {
    return heap_.function({.name = name.name, .builtin = builtin});
  }
  return Undefined{name.name};
}

Value Interpreter::evaluate_list(const ListExpression& list, Scope& scope) {
  std::vector<Value> items;
  items.reserve(list.items.size());
  for (const ExpressionPtr& item : list.items) items.push_back(evaluate(*item, scope));
  return heap_.list(std::move(items), list.list_kind);
}

Value Interpreter::evaluate_dict(const DictExpression& dict, Scope& scope) {
  Dict* result = heap_.dict();
  for (const auto& [key, value] : dict.items) {
    const Value k = evaluate(*key, scope);
    set(heap_, *result, k, evaluate(*value, scope));
  }
  return result;
}

Value Interpreter::evaluate_negate(const NegateExpression& expression, Scope& scope) {
  const Value value = evaluate(*expression.operand, scope);
  if (expression.op == NegateExpression::Operator::logical) return !truthy(value);
  at_ = expression.at;
  if (expression.op == NegateExpression::Operator::minus) return negate(value);
  return negate(negate(value));
}

Value Interpreter::evaluate_math(const MathExpression& expression, Scope& scope) {
  Value value = evaluate(*expression.first, scope);
  for (const auto& [op, operand] : expression.rest) {
    const Value right = evaluate(*operand, scope);
    at_ = expression.at;
    value = math(heap_, op, value, right);
  }
  return value;
}

Value Interpreter::evaluate_logic(const LogicExpression& logic, Scope& scope) {
  Value value;
  for (const ExpressionPtr& operand : logic.operands) {
    value = evaluate(*operand, scope);
    if (truthy(value) != logic.all) break;
  }
  return value;
}

bool Interpreter::compare_values(CompareOperator op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOperator::equal:
      return equal(heap_, a, b);
    case CompareOperator::not_equal:
      return !equal(heap_, a, b);
    case CompareOperator::less:
      return compare(heap_, a, b, "<") < 0;
    case CompareOperator::less_equal:
      return compare(heap_, a, b, "<=") <= 0;
    case CompareOperator::greater:
      return compare(heap_, a, b, ">") > 0;
    case CompareOperator::greater_equal:
      return compare(heap_, a, b, ">=") >= 0;
    case CompareOperator::in:
      return contains(heap_, a, b);
    case CompareOperator::not_in:
      return !contains(heap_, a, b);
  }
  return false;
}

Value Interpreter::evaluate_comparison(const CompareExpression& comparison, Scope& scope) {
  Value left = evaluate(*comparison.first, scope);
  for (const auto& [op, operand] : comparison.rest) {
    Value right = evaluate(*operand, scope);
    at_ = comparison.at;
    if (!compare_values(op, left, right)) return false;
    left = right;
  }
  return true;
}

Value Interpreter::evaluate_conditional(const ConditionalExpression& conditional, Scope& scope) {
  if (truthy(evaluate(*conditional.condition, scope))) return evaluate(*conditional.then, scope);
  if (conditional.otherwise) return evaluate(*conditional.otherwise, scope);
  return Undefined{"the condition was false and there is no 'else' part", ""};
}

Value Interpreter::evaluate_slice(const SliceExpression& expression, Scope& scope) {
  const Value object = evaluate(*expression.object, scope);
  const auto part = [&](const ExpressionPtr& node) -> std::optional<int64_t> {
    if (!node) return std::nullopt;
    const Value value = evaluate(*node, scope);
    if (is_none(value)) return std::nullopt;
    const auto index = as_integer(value);
    if (!index) raise("the parts of a slice must be integers, not '{}'", type_name(value));
    return index;
  };
  const auto start = part(expression.start);
  const auto stop = part(expression.stop);
  const auto step = part(expression.step);
  at_ = expression.at;
  return slice(heap_, object, start, stop, step.value_or(1));
}

void Interpreter::evaluate_arguments(const ArgumentList& list, Arguments& arguments, Scope& scope) {
  for (const ExpressionPtr& argument : list.positional) arguments.add(evaluate(*argument, scope));
  if (list.more_positional) {
    for (const Value& value : iterate(heap_, evaluate(*list.more_positional, scope))) arguments.add(value);
  }
  for (const auto& [name, argument] : list.named) arguments.add(name, evaluate(*argument, scope));
  if (!list.more_named) return;
  const Value more = evaluate(*list.more_named, scope);
  const auto* dict = as<Dict*>(more);
  if (dict == nullptr) raise("what follows '**' must be a dict, not '{}'", type_name(more));
  for (const auto& [key, value] : (*dict)->items) {
    const auto* name = as<std::string_view>(key);
    if (name == nullptr) raise("names of arguments must be strings");
    arguments.add(*name, value);
  }
}

// --- Calls ---

Value Interpreter::evaluate_call(const CallExpression& call, Scope& scope, const Value* caller) {
  // object.method(…): a dict's methods come before its keys here, as Python has it.
  if (call.callee->kind == Expression::Kind::attribute) {
    const auto& callee = static_cast<const AttributeExpression&>(*call.callee);
    const Value object = evaluate(*callee.object, scope);
    const Builtin method = find_method(object, callee.name);
    Arguments arguments(heap_, callee.name);
    evaluate_arguments(call.arguments, arguments, scope);
    if (caller != nullptr) arguments.add("caller", *caller);
    at_ = callee.at;
    if (method != nullptr) return call_builtin(method, object, arguments);
    return this->call(attribute(object, callee.name), arguments);
  }
  const Value callee = evaluate(*call.callee, scope);
  const auto* function = as<Function*>(callee);
  const bool is_loop = as<Loop*>(callee) != nullptr;
  Arguments arguments(heap_, function != nullptr ? (*function)->name : is_loop ? "loop" : "call");
  evaluate_arguments(call.arguments, arguments, scope);
  if (caller != nullptr) arguments.add("caller", *caller);
  at_ = call.at;
  return this->call(callee, arguments);
}

Value Interpreter::call(const Value& callee, Arguments& arguments) {
  if (const auto* undefined = as<Undefined>(callee)) raise_undefined(*undefined);
  if (const auto* loop = as<Loop*>(callee)) return call_loop(**loop, arguments);
  const auto* function = as<Function*>(callee);
  if (function == nullptr) raise("'{}' object is not callable", type_name(callee));
  if ((*function)->macro != nullptr) return call_macro(**function, arguments);
  return call_builtin((*function)->builtin, (*function)->self, arguments);
}

Value Interpreter::call_builtin(Builtin builtin, const Value& self, Arguments& arguments) {
  Value result = builtin(*this, self, arguments);
  arguments.finish();
  return result;
}

void Interpreter::bind(const Function& function, Arguments& arguments, Scope& scope) {
  const MacroStatement& macro = *function.macro;
  // All names first: a default may not see an outer variable of a parameter's name.
  std::vector<const Parameter*> missing;
  for (const Parameter& parameter : macro.parameters) {
    const Value* given = arguments.take(parameter.name);
    if (given == nullptr && parameter.fallback) missing.push_back(&parameter);
    scope.set(parameter.name, given != nullptr ? *given : Value(Undefined{parameter.name}), heap_);
  }
  std::vector<Value> varargs;
  if (macro.takes_varargs) varargs = arguments.rest();
  Dict* kwargs = heap_.dict();
  for (const auto& [name, value] : arguments.rest_named()) {
    if (name == "caller") {
      scope.set(name, value, heap_);
    } else if (macro.takes_kwargs) {
      set(heap_, *kwargs, name, value);
    } else {
      raise("macro '{}' has no argument '{}'", macro.name, name);
    }
  }
  arguments.finish();
  if (macro.takes_varargs) scope.set("varargs", heap_.tuple(std::move(varargs)), heap_);
  if (macro.takes_kwargs) scope.set("kwargs", kwargs, heap_);
  for (const Parameter* parameter : missing) {
    scope.set(parameter->name, evaluate(*parameter->fallback, scope), heap_);
  }
}

Value Interpreter::call_macro(const Function& function, Arguments& arguments) {
  const Level level(*this);
  Scope* scope = heap_.scope(function.scope);
  bind(function, arguments, *scope);
  Text text(heap_);
  run(function.macro->body, *scope, text);
  return text.value();
}

Value Interpreter::call_loop(const Loop& loop, Arguments& arguments) {
  if (loop.recursive == nullptr) raise("this loop cannot be called: its 'for' does not end with 'recursive'");
  const Level level(*this);
  const Value items = arguments.required("iterable");
  arguments.finish();
  Text text(heap_);
  run_loop(*loop.recursive, items, loop.depth0 + 1, *loop.scope, text);
  return text.value();
}

Value Interpreter::evaluate_filter(const FilterExpression& node, const Value& operand, Scope& scope) {
  Arguments arguments(heap_, node.name);
  evaluate_arguments(node.arguments, arguments, scope);
  at_ = node.at;
  return filter(node.name, operand, arguments);
}

Value Interpreter::evaluate_test(const TestExpression& node, Scope& scope) {
  const Value operand = evaluate(*node.operand, scope);
  Arguments arguments(heap_, node.name);
  evaluate_arguments(node.arguments, arguments, scope);
  at_ = node.at;
  return test(node.name, operand, arguments) != node.negated;
}

Value Interpreter::filter(std::string_view name, const Value& operand, Arguments& arguments) {
  const Builtin builtin = find_filter(name);
  if (builtin == nullptr) raise("there is no filter '{}'", name);
  return call_builtin(builtin, operand, arguments);
}

bool Interpreter::test(std::string_view name, const Value& operand, Arguments& arguments) {
  const Builtin builtin = find_test(name);
  if (builtin == nullptr) raise("there is no test '{}'", name);
  return truthy(call_builtin(builtin, operand, arguments));
}

}  // namespace quern::jinja
