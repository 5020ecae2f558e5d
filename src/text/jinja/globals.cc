// The functions that templates call without defining them.
#include <ctime>

#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/interpreter.h"

namespace quern::jinja {
namespace {

constexpr size_t kMaxRange = 100'000;  // Jinja2's sandbox has the same limit

Value range(Interpreter& in, const Value&, Arguments& arguments) {
  int64_t start = 0;
  const auto number = [&](const Value& value) {
    if (const auto* undefined = as<Undefined>(value)) raise_undefined(*undefined);
    const auto result = as_integer(value);
    if (!result) raise("range() needs integers, not '{}'", type_name(value));
    return *result;
  };
  int64_t stop = number(arguments.required("stop"));
  if (const Value* second = arguments.take("stop")) {
    start = stop;
    stop = number(*second);
  }
  const Value* third = arguments.take("step");
  const int64_t step = third != nullptr ? number(*third) : 1;
  if (step == 0) raise("range(): the step cannot be zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (items.size() == kMaxRange) raise("range() of more than {} numbers is refused", kMaxRange);
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return in.heap().list(std::move(items));
}

/// Adds what dict() and namespace() take: a dict or pairs, then names.
void fill(Interpreter& in, Dict& dict, Arguments& arguments) {
  if (const Value* source = arguments.take("mapping")) {
    const Value from = *source;
    if (const auto* other = as<Dict*>(from)) {
      for (const auto& [key, value] : (*other)->items) set(in.heap(), dict, key, value);
    } else {
      for (const Value& item : iterate(in.heap(), from)) {
        const std::vector<Value> pair = iterate(in.heap(), item);
        if (pair.size() != 2) raise("{}(): expected pairs of a name and a value", arguments.function());
        set(in.heap(), dict, pair[0], pair[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.rest_named()) set(in.heap(), dict, name, value);
}

Value make_dict(Interpreter& in, const Value&, Arguments& arguments) {
  Dict* dict = in.heap().dict();
  fill(in, *dict, arguments);
  return dict;
}

Value make_namespace(Interpreter& in, const Value&, Arguments& arguments) {
  Namespace* names = in.heap().names();
  fill(in, names->attributes, arguments);
  return names;
}

Value raise_exception(Interpreter& in, const Value&, Arguments& arguments) {
  throw TemplateError{std::string(to_string(in.heap(), arguments.required("message"))), true};
}

Value strftime_now(Interpreter& in, const Value&, Arguments& arguments) {
  const std::string format(arguments.text("format"));
  const std::tm now = in.now();
  char buffer[4096];
  if (format.empty()) return std::string_view();
  const size_t size = std::strftime(buffer, sizeof buffer, format.c_str(), &now);
  if (size == 0 && format != "%p") raise("strftime_now(): the format '{:.40}' gives no text", format);
  return in.heap().string(std::string(buffer, size));
}

Value call_joiner(Interpreter&, const Value& self, Arguments&) {
  Dict& state = std::get<Namespace*>(self)->attributes;
  Value& used = state.items[1].second;
  if (!truthy(used)) {
    used = true;
    return std::string_view();
  }
  return state.items[0].second;
}

/// A function that gives nothing the first time and the separator from then on.
Value joiner(Interpreter& in, const Value&, Arguments& arguments) {
  Namespace* state = in.heap().names();
  set(in.heap(), state->attributes, std::string_view("separator"), arguments.text("sep", ", "));
  set(in.heap(), state->attributes, std::string_view("used"), false);
  return in.heap().function({.name = "joiner", .builtin = call_joiner, .self = state});
}

// A cycler is a namespace of these, in this order; the last two have no names that a template can write.
enum : size_t { kCurrent, kNext, kReset, kItems, kPlace };

/// Moves a cycler to `place` and returns what was current.
Value turn_cycler(Dict& state, size_t place) {
  const auto& items = std::get<List*>(state.items[kItems].second)->items;
  const Value before = items[static_cast<size_t>(std::get<int64_t>(state.items[kPlace].second))];
  state.items[kPlace].second = integer(place % items.size());
  state.items[kCurrent].second = items[place % items.size()];
  return before;
}

Value next_of_cycler(Interpreter&, const Value& self, Arguments&) {
  Dict& state = std::get<Namespace*>(self)->attributes;
  return turn_cycler(state, static_cast<size_t>(std::get<int64_t>(state.items[kPlace].second)) + 1);
}

Value reset_cycler(Interpreter&, const Value& self, Arguments&) {
  turn_cycler(std::get<Namespace*>(self)->attributes, 0);
  return None{};
}

/// cycler(a, b, …): `.next()` gives one after the other, again and again; `.current`, `.reset()`.
Value cycler(Interpreter& in, const Value&, Arguments& arguments) {
  const std::vector<Value> items = arguments.rest();
  if (items.empty()) raise("cycler() needs something to choose from");
  Namespace* state = in.heap().names();
  const auto add = [&](std::string_view name, const Value& value) {
    set(in.heap(), state->attributes, name, value);
  };
  add("current", items.front());
  add("next", in.heap().function({.name = "next", .builtin = next_of_cycler, .self = state}));
  add("reset", in.heap().function({.name = "reset", .builtin = reset_cycler, .self = state}));
  add("(items)", in.heap().list(items));
  add("(place)", int64_t{0});
  return state;
}

constexpr NamedBuiltin kGlobals[] = {
    {"range", range},
    {"dict", make_dict},
    {"namespace", make_namespace},
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
    {"joiner", joiner},
    {"cycler", cycler},
};

}  // namespace

Builtin find_global(std::string_view name) { return find_builtin(kGlobals, name); }

}  // namespace quern::jinja
