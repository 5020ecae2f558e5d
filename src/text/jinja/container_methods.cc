// Methods of lists, dicts and loops. (transformers' sandbox forbids those that change a value; other runtimes
// that templates were written for allow them.)
#include <algorithm>

#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/interpreter.h"

namespace quern::jinja {
namespace {

// --- list ---

List& list_of(const Value& self) { return *std::get<List*>(self); }

void grow(Interpreter& in, size_t count) { in.heap().bytes(count * sizeof(Value)); }

Value append(Interpreter& in, const Value& self, Arguments& arguments) {
  grow(in, 1);
  list_of(self).items.push_back(arguments.required("object"));
  return None{};
}

Value extend(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::vector<Value> more = iterate(in.heap(), arguments.required("iterable"));
  grow(in, more.size());
  auto& items = list_of(self).items;
  items.insert(items.end(), more.begin(), more.end());
  return None{};
}

Value insert(Interpreter& in, const Value& self, Arguments& arguments) {
  auto& items = list_of(self).items;
  const auto size = static_cast<int64_t>(items.size());
  const int64_t index = arguments.integer("index", 0);
  const int64_t place = std::clamp<int64_t>(index < 0 ? index + size : index, 0, size);
  in.heap().step(items.size() / 16);
  grow(in, 1);
  items.insert(items.begin() + place, arguments.required("object"));
  return None{};
}

Value pop_item(Interpreter& in, const Value& self, Arguments& arguments) {
  auto& items = list_of(self).items;
  const auto size = static_cast<int64_t>(items.size());
  const int64_t index = arguments.integer("index", -1);
  const int64_t place = index < 0 ? index + size : index;
  if (place < 0 || place >= size) raise("pop(): the list of {} items has no item {}", size, index);
  in.heap().step(items.size() / 16);
  const Value item = items[static_cast<size_t>(place)];
  items.erase(items.begin() + place);
  return item;
}

/// Index of the first item that equals the argument, or the size.
size_t position_of(Interpreter& in, const Value& self, Arguments& arguments) {
  const auto& items = list_of(self).items;
  const Value wanted = arguments.required("value");
  size_t i = 0;
  while (i < items.size() && !equal(in.heap(), items[i], wanted)) ++i;
  return i;
}

Value index(Interpreter& in, const Value& self, Arguments& arguments) {
  const size_t place = position_of(in, self, arguments);
  if (place == list_of(self).items.size()) raise("index(): the value is not in the list");
  return integer(place);
}

Value remove(Interpreter& in, const Value& self, Arguments& arguments) {
  const size_t place = position_of(in, self, arguments);
  auto& items = list_of(self).items;
  if (place == items.size()) raise("remove(): the value is not in the list");
  items.erase(items.begin() + static_cast<std::ptrdiff_t>(place));
  return None{};
}

Value count(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value wanted = arguments.required("value");
  size_t found = 0;
  for (const Value& item : list_of(self).items) found += equal(in.heap(), item, wanted);
  return integer(found);
}

Value reverse(Interpreter& in, const Value& self, Arguments&) {
  auto& items = list_of(self).items;
  in.heap().step(items.size() / 16);
  std::reverse(items.begin(), items.end());
  return None{};
}

Value sort(Interpreter& in, const Value& self, Arguments& arguments) {
  auto& items = list_of(self).items;
  const bool descending = arguments.flag("reverse", false);
  std::stable_sort(items.begin(), items.end(), [&](const Value& a, const Value& b) {
    const int order = compare(in.heap(), a, b, "<");
    return descending ? order > 0 : order < 0;
  });
  return None{};
}

Value clear_list(Interpreter&, const Value& self, Arguments&) {
  list_of(self).items.clear();
  return None{};
}

Value copy_list(Interpreter& in, const Value& self, Arguments&) {
  return in.heap().list(iterate(in.heap(), self), list_of(self).kind);
}

constexpr NamedBuiltin kListMethods[] = {
    {"append", append},   {"extend", extend},    {"insert", insert},  {"pop", pop_item},
    {"index", index},     {"count", count},      {"remove", remove},  {"sort", sort},
    {"reverse", reverse}, {"clear", clear_list}, {"copy", copy_list},
};

constexpr NamedBuiltin kTupleMethods[] = {{"index", index}, {"count", count}};

// --- dict ---

Dict& dict_of(const Value& self) { return *std::get<Dict*>(self); }

Value items(Interpreter& in, const Value& self, Arguments&) {
  std::vector<Value> pairs;
  for (const auto& [key, value] : dict_of(self).items) pairs.emplace_back(in.heap().tuple({key, value}));
  return in.heap().list(std::move(pairs));
}

Value keys(Interpreter& in, const Value& self, Arguments&) {
  return in.heap().list(iterate(in.heap(), self));
}

Value values(Interpreter& in, const Value& self, Arguments&) {
  std::vector<Value> result;
  for (const auto& [key, value] : dict_of(self).items) result.push_back(value);
  return in.heap().list(std::move(result));
}

Value get_key(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value key = arguments.required("key");
  const Value* fallback = arguments.take("default");
  const Value* value = find(in.heap(), dict_of(self), key);
  if (value != nullptr) return *value;
  return fallback != nullptr ? *fallback : Value(None{});
}

Value set_default(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value key = arguments.required("key");
  const Value* fallback = arguments.take("default");
  if (const Value* value = find(in.heap(), dict_of(self), key)) return *value;
  const Value value = fallback != nullptr ? *fallback : Value(None{});
  set(in.heap(), dict_of(self), key, value);
  return value;
}

Value pop_key(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value key = arguments.required("key");
  const Value* fallback = arguments.take("default");
  auto& entries = dict_of(self).items;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!equal(in.heap(), entries[i].first, key)) continue;
    const Value value = entries[i].second;
    entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(i));
    return value;
  }
  if (fallback == nullptr) raise("pop(): the dict has no key '{}'", to_string(in.heap(), key));
  return *fallback;
}

Value update(Interpreter& in, const Value& self, Arguments& arguments) {
  if (const Value* other = arguments.take("other")) {
    const auto* dict = as<Dict*>(*other);
    if (dict == nullptr) raise("update(): expected a dict, not '{}'", type_name(*other));
    const auto entries = (*dict)->items;  // a copy: a dict may be updated from itself
    for (const auto& [key, value] : entries) set(in.heap(), dict_of(self), key, value);
  }
  for (const auto& [name, value] : arguments.rest_named()) set(in.heap(), dict_of(self), name, value);
  return None{};
}

Value clear_dict(Interpreter&, const Value& self, Arguments&) {
  dict_of(self).items.clear();
  return None{};
}

Value copy_dict(Interpreter& in, const Value& self, Arguments&) {
  Dict* copy = in.heap().dict();
  in.heap().bytes(dict_of(self).items.size() * sizeof(copy->items[0]));
  copy->items = dict_of(self).items;
  return copy;
}

constexpr NamedBuiltin kDictMethods[] = {
    {"items", items},
    {"keys", keys},
    {"values", values},
    {"get", get_key},
    {"setdefault", set_default},
    {"pop", pop_key},
    {"update", update},
    {"clear", clear_dict},
    {"copy", copy_dict},
};

// --- loop ---

Value cycle(Interpreter&, const Value& self, Arguments& arguments) {
  const std::vector<Value> choices = arguments.rest();
  if (choices.empty()) raise("loop.cycle() needs something to choose from");
  return choices[std::get<Loop*>(self)->index % choices.size()];
}

Value changed(Interpreter& in, const Value& self, Arguments& arguments) {
  Loop& loop = *std::get<Loop*>(self);
  const Value now = in.heap().tuple(arguments.rest());
  if (loop.changed && equal(in.heap(), *loop.changed, now)) return false;
  loop.changed = now;
  return true;
}

constexpr NamedBuiltin kLoopMethods[] = {{"cycle", cycle}, {"changed", changed}};

}  // namespace

Builtin find_method(const Value& object, std::string_view name) {
  if (as<std::string_view>(object) != nullptr) return find_string_method(name);
  if (as<Dict*>(object) != nullptr) return find_builtin(kDictMethods, name);
  if (as<Loop*>(object) != nullptr) return find_builtin(kLoopMethods, name);
  const auto* list = as<List*>(object);
  if (list == nullptr) return nullptr;
  return (*list)->kind == List::Kind::list ? find_builtin(kListMethods, name)
                                           : find_builtin(kTupleMethods, name);
}

}  // namespace quern::jinja
