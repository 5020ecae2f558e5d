// What may stand after `is`.
#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/strings.h"

namespace quern::jinja {
namespace {

template <class T>
bool holds(const Value& value) {
  return as<T>(value) != nullptr;
}

Value is_defined(Interpreter&, const Value& self, Arguments&) { return !is_undefined(self); }
Value is_not_defined(Interpreter&, const Value& self, Arguments&) { return is_undefined(self); }
Value is_nothing(Interpreter&, const Value& self, Arguments&) { return is_none(self); }
Value is_boolean(Interpreter&, const Value& self, Arguments&) { return holds<bool>(self); }
Value is_true(Interpreter&, const Value& self, Arguments&) { return holds<bool>(self) && truthy(self); }
Value is_false(Interpreter&, const Value& self, Arguments&) { return holds<bool>(self) && !truthy(self); }
Value is_integer(Interpreter&, const Value& self, Arguments&) {
  return holds<int64_t>(self) || holds<uint64_t>(self);
}
Value is_real(Interpreter&, const Value& self, Arguments&) { return holds<double>(self); }
Value is_number(Interpreter&, const Value& self, Arguments&) { return as_number(self).has_value(); }
Value is_string(Interpreter&, const Value& self, Arguments&) { return holds<std::string_view>(self); }
Value is_mapping(Interpreter&, const Value& self, Arguments&) { return holds<Dict*>(self); }
Value is_callable(Interpreter&, const Value& self, Arguments&) {
  return holds<Function*>(self) || holds<Loop*>(self);
}

/// Jinja2 counts undefined values as well: they iterate over nothing.
Value is_iterable(Interpreter&, const Value& self, Arguments&) {
  return is_undefined(self) || holds<std::string_view>(self) || holds<List*>(self) || holds<Dict*>(self);
}

int64_t integer_of(const Value& value, std::string_view test) {
  if (const auto* undefined = as<Undefined>(value)) raise_undefined(*undefined);
  const auto number = as_integer(value);
  if (!number) raise("{}: expected an integer, not '{}'", test, type_name(value));
  return *number;
}

Value is_even(Interpreter&, const Value& self, Arguments&) { return integer_of(self, "even") % 2 == 0; }
Value is_odd(Interpreter&, const Value& self, Arguments&) { return integer_of(self, "odd") % 2 != 0; }

Value is_divisible(Interpreter&, const Value& self, Arguments& arguments) {
  const int64_t by = integer_of(arguments.required("num"), "divisibleby");
  if (by == 0) raise("division by zero");
  return by == -1 || integer_of(self, "divisibleby") % by == 0;
}

template <bool (*kind)(std::string_view)>
Value is_case(Interpreter& in, const Value& self, Arguments&) {
  const std::string_view text = to_string(in.heap(), self);
  in.heap().walk(text);
  return kind(text);
}

Value equals(Interpreter& in, const Value& self, Arguments& arguments) {
  return equal(in.heap(), self, arguments.required("other"));
}
Value differs(Interpreter& in, const Value& self, Arguments& arguments) {
  return !equal(in.heap(), self, arguments.required("other"));
}
Value less(Interpreter& in, const Value& self, Arguments& arguments) {
  return compare(in.heap(), self, arguments.required("other"), "<") < 0;
}
Value less_equal(Interpreter& in, const Value& self, Arguments& arguments) {
  return compare(in.heap(), self, arguments.required("other"), "<=") <= 0;
}
Value greater(Interpreter& in, const Value& self, Arguments& arguments) {
  return compare(in.heap(), self, arguments.required("other"), ">") > 0;
}
Value greater_equal(Interpreter& in, const Value& self, Arguments& arguments) {
  return compare(in.heap(), self, arguments.required("other"), ">=") >= 0;
}
Value is_in(Interpreter& in, const Value& self, Arguments& arguments) {
  return contains(in.heap(), self, arguments.required("seq"));
}

/// The same object, where that can be told.
Value is_same(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value& other = arguments.required("other");
  if (self.index() != other.index()) return false;
  if (const auto* list = as<List*>(self)) return *list == std::get<List*>(other);
  if (const auto* dict = as<Dict*>(self)) return *dict == std::get<Dict*>(other);
  return equal(in.heap(), self, other);
}

Value is_filter(Interpreter&, const Value& self, Arguments&) {
  const auto* name = as<std::string_view>(self);
  return name != nullptr && find_filter(*name) != nullptr;
}
Value is_test(Interpreter&, const Value& self, Arguments&) {
  const auto* name = as<std::string_view>(self);
  return name != nullptr && find_test(*name) != nullptr;
}
Value is_escaped(Interpreter&, const Value&, Arguments&) { return false; }

constexpr NamedBuiltin kTests[] = {
    {"defined", is_defined},
    {"undefined", is_not_defined},
    {"none", is_nothing},
    {"boolean", is_boolean},
    {"true", is_true},
    {"false", is_false},
    {"integer", is_integer},
    {"float", is_real},
    {"number", is_number},
    {"string", is_string},
    {"mapping", is_mapping},
    {"sequence", is_iterable},  // dicts and undefined values too, as in Jinja2
    {"iterable", is_iterable},
    {"callable", is_callable},
    {"even", is_even},
    {"odd", is_odd},
    {"divisibleby", is_divisible},
    {"lower", is_case<is_lower>},
    {"upper", is_case<is_upper>},
    {"eq", equals},
    {"equalto", equals},
    {"==", equals},
    {"ne", differs},
    {"!=", differs},
    {"lt", less},
    {"lessthan", less},
    {"<", less},
    {"le", less_equal},
    {"<=", less_equal},
    {"gt", greater},
    {"greaterthan", greater},
    {">", greater},
    {"ge", greater_equal},
    {">=", greater_equal},
    {"in", is_in},
    {"sameas", is_same},
    {"filter", is_filter},
    {"test", is_test},
    {"escaped", is_escaped},
};

}  // namespace

Builtin find_test(std::string_view name) { return find_builtin(kTests, name); }

}  // namespace quern::jinja
