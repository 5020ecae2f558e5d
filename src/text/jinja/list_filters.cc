// Filters over lists and dicts.
#include <algorithm>
#include <charconv>

#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/strings.h"

namespace quern::jinja {

Value by_path(Interpreter& in, const Value& value, const Value& path) {
  const auto* text = as<std::string_view>(path);
  if (text == nullptr) return in.item(value, path);
  Value result = value;
  for (size_t begin = 0; begin <= text->size();) {
    const size_t end = std::min(text->find('.', begin), text->size());
    const std::string_view part = text->substr(begin, end - begin);
    int64_t index = 0;
    const auto [stop, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = error == std::errc{} && stop == part.data() + part.size();
    result = in.item(result, number ? Value(index) : Value(part));
    begin = end + 1;
  }
  return result;
}

namespace {

std::vector<Value> items_of(Interpreter& in, const Value& self) { return iterate(in.heap(), self); }

/// What sorting and comparing filters look at: the value at a path, in lower case unless they care.
struct Key {
  std::optional<Value> path;
  bool case_sensitive = false;

  Value operator()(Interpreter& in, const Value& item) const {
    Value value = path ? by_path(in, item, *path) : item;
    if (const auto* text = as<std::string_view>(value); text != nullptr && !case_sensitive) {
      value = in.heap().string(lower(*text));
    }
    return value;
  }
};

std::optional<Value> take_path(Arguments& arguments, std::string_view name) {
  const Value* path = arguments.take(name);
  if (path == nullptr || is_none(*path)) return std::nullopt;
  if (as<std::string_view>(*path) == nullptr && !as_integer(*path)) {
    raise("{}(): '{}' must be a string or an integer", arguments.function(), name);
  }
  return *path;
}

/// Sorts `items` by their keys, keeping the order of equal ones.
void sort_by(Interpreter& in, std::vector<Value>& items, const std::vector<Key>& keys, bool reverse) {
  in.heap().bytes(items.size() * (sizeof(Value) * keys.size() + sizeof(size_t)));
  std::vector<std::pair<std::vector<Value>, Value>> keyed;
  for (const Value& item : items) {
    std::vector<Value> values;
    for (const Key& key : keys) values.push_back(key(in, item));
    keyed.emplace_back(std::move(values), item);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    for (size_t i = 0; i < keys.size(); ++i) {
      if (const int order = compare(in.heap(), a.first[i], b.first[i], "<"); order != 0) {
        return reverse ? order > 0 : order < 0;
      }
    }
    return false;
  });
  for (size_t i = 0; i < items.size(); ++i) items[i] = keyed[i].second;
}

Value sort(Interpreter& in, const Value& self, Arguments& arguments) {
  const bool reverse = arguments.flag("reverse", false);
  const bool case_sensitive = arguments.flag("case_sensitive", false);
  const std::optional<Value> path = take_path(arguments, "attribute");
  std::vector<Key> keys;
  const auto* text = path ? as<std::string_view>(*path) : nullptr;
  if (text == nullptr) {
    keys.push_back({path, case_sensitive});
  } else {  // "a,b": by a, then by b
    for (size_t begin = 0; begin <= text->size();) {
      const size_t end = std::min(text->find(',', begin), text->size());
      keys.push_back({strip(text->substr(begin, end - begin)), case_sensitive});
      begin = end + 1;
    }
  }
  std::vector<Value> items = items_of(in, self);
  sort_by(in, items, keys, reverse);
  return in.heap().list(std::move(items));
}

Value dict_items(Interpreter& in, const Value& self, Arguments& arguments) {
  std::vector<Value> pairs;
  if (is_undefined(self)) return in.heap().list();
  const auto* dict = as<Dict*>(self);
  if (dict == nullptr) raise("{}: expected a dict, not '{}'", arguments.function(), type_name(self));
  for (const auto& [key, value] : (*dict)->items) pairs.emplace_back(in.heap().tuple({key, value}));
  return in.heap().list(std::move(pairs));
}

Value dict_sort(Interpreter& in, const Value& self, Arguments& arguments) {
  const bool case_sensitive = arguments.flag("case_sensitive", false);
  const std::string_view by = arguments.text("by", "key");
  const bool reverse = arguments.flag("reverse", false);
  if (by != "key" && by != "value") raise("dictsort(): 'by' must be 'key' or 'value'");
  std::vector<Value> pairs = std::get<List*>(dict_items(in, self, arguments))->items;
  sort_by(in, pairs, {{Value(int64_t{by == "key" ? 0 : 1}), case_sensitive}}, reverse);
  return in.heap().list(std::move(pairs));
}

Value length_of(Interpreter& in, const Value& self, Arguments&) { return integer(length(in.heap(), self)); }

Value first(Interpreter& in, const Value& self, Arguments&) {
  const std::vector<Value> items = items_of(in, self);
  return items.empty() ? Value(Undefined{"the first item of an empty sequence", ""}) : items.front();
}

Value last(Interpreter& in, const Value& self, Arguments&) {
  const std::vector<Value> items = items_of(in, self);
  return items.empty() ? Value(Undefined{"the last item of an empty sequence", ""}) : items.back();
}

Value to_list(Interpreter& in, const Value& self, Arguments&) { return in.heap().list(items_of(in, self)); }

Value reverse(Interpreter& in, const Value& self, Arguments&) {
  std::vector<Value> items = items_of(in, self);
  std::reverse(items.begin(), items.end());
  if (as<std::string_view>(self) == nullptr) return in.heap().list(std::move(items));
  Text out(in.heap());
  for (const Value& item : items) out.add(std::get<std::string_view>(item));
  return out.value();
}

Value join(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value* given = arguments.take("d");
  const std::string_view separator = given != nullptr ? to_string(in.heap(), *given) : "";
  const std::optional<Value> path = take_path(arguments, "attribute");
  const std::vector<Value> items = items_of(in, self);
  Text out(in.heap());
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.add(separator);
    out.add(to_string(in.heap(), path ? by_path(in, items[i], *path) : items[i]));
  }
  return out.value();
}

Value fallback(Interpreter&, const Value& self, Arguments& arguments) {
  const Value* given = arguments.take("default_value");
  const Value other = given != nullptr ? *given : Value(std::string_view());
  const bool falsy_too = arguments.flag("boolean", false);
  return is_undefined(self) || (falsy_too && !truthy(self)) ? other : self;
}

Value map(Interpreter& in, const Value& self, Arguments& arguments) {
  std::vector<Value> items = items_of(in, self);
  std::vector<Value> positional = arguments.rest();
  auto named = arguments.rest_named();
  if (positional.empty()) {  // map(attribute="name", default=…)
    std::optional<Value> path;
    Value other = Undefined{"attribute"};
    for (const auto& [name, value] : named) {
      if (name == "attribute") {
        path = value;
      } else if (name == "default") {
        other = value;
      } else {
        raise("map() has no argument '{}'", name);
      }
    }
    if (!path) raise("map() needs the name of a filter or attribute=…");
    for (Value& item : items) {
      item = by_path(in, item, *path);
      if (is_undefined(item) && !is_undefined(other)) item = other;
    }
    return in.heap().list(std::move(items));
  }
  const auto* filter = as<std::string_view>(positional[0]);
  if (filter == nullptr) raise("map() needs the name of a filter or attribute=…");
  for (Value& item : items) {
    Arguments forward(in.heap(), *filter);
    for (size_t i = 1; i < positional.size(); ++i) forward.add(positional[i]);
    for (const auto& [name, value] : named) forward.add(name, value);
    item = in.filter(*filter, item, forward);
  }
  return in.heap().list(std::move(items));
}

/// select, reject, selectattr and rejectattr: those whose (attribute's) test is `wanted`.
Value choose(Interpreter& in, const Value& self, Arguments& arguments, bool by_attribute, bool wanted) {
  std::optional<Value> path;
  if (by_attribute) path = arguments.required("attribute");
  const std::vector<Value> rest = arguments.rest();
  const auto named = arguments.rest_named();
  const auto* test = rest.empty() ? nullptr : as<std::string_view>(rest[0]);
  if (!rest.empty() && test == nullptr) raise("{}() needs the name of a test", arguments.function());
  std::vector<Value> chosen;
  for (const Value& item : items_of(in, self)) {
    const Value value = path ? by_path(in, item, *path) : item;
    bool passes = false;
    if (test == nullptr) {
      passes = truthy(value);
    } else {
      Arguments forward(in.heap(), *test);
      for (size_t i = 1; i < rest.size(); ++i) forward.add(rest[i]);
      for (const auto& [name, argument] : named) forward.add(name, argument);
      passes = in.test(*test, value, forward);
    }
    if (passes == wanted) chosen.push_back(item);
  }
  return in.heap().list(std::move(chosen));
}

Value select(Interpreter& in, const Value& self, Arguments& arguments) {
  return choose(in, self, arguments, false, true);
}
Value reject(Interpreter& in, const Value& self, Arguments& arguments) {
  return choose(in, self, arguments, false, false);
}
Value select_attribute(Interpreter& in, const Value& self, Arguments& arguments) {
  return choose(in, self, arguments, true, true);
}
Value reject_attribute(Interpreter& in, const Value& self, Arguments& arguments) {
  return choose(in, self, arguments, true, false);
}

Value unique(Interpreter& in, const Value& self, Arguments& arguments) {
  const bool case_sensitive = arguments.flag("case_sensitive", false);
  const Key key{take_path(arguments, "attribute"), case_sensitive};
  std::vector<Value> kept;
  std::vector<Value> seen;
  for (const Value& item : items_of(in, self)) {
    const Value value = key(in, item);
    const bool known = std::any_of(seen.begin(), seen.end(),
                                   [&](const Value& other) { return equal(in.heap(), value, other); });
    if (known) continue;
    seen.push_back(value);
    kept.push_back(item);
  }
  return in.heap().list(std::move(kept));
}

Value extreme(Interpreter& in, const Value& self, Arguments& arguments, int sign) {
  const bool case_sensitive = arguments.flag("case_sensitive", false);
  const Key key{take_path(arguments, "attribute"), case_sensitive};
  const std::vector<Value> items = items_of(in, self);
  if (items.empty()) return Undefined{"the extreme of an empty sequence", ""};
  size_t best = 0;
  Value best_key = key(in, items[0]);
  for (size_t i = 1; i < items.size(); ++i) {
    const Value value = key(in, items[i]);
    if (compare(in.heap(), value, best_key, sign < 0 ? "<" : ">") * sign > 0) {
      best = i;
      best_key = value;
    }
  }
  return items[best];
}

Value minimum(Interpreter& in, const Value& self, Arguments& arguments) {
  return extreme(in, self, arguments, -1);
}
Value maximum(Interpreter& in, const Value& self, Arguments& arguments) {
  return extreme(in, self, arguments, 1);
}

Value sum(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::optional<Value> path = take_path(arguments, "attribute");
  const Value* start = arguments.take("start");
  bool real = false;
  double total = 0;
  int64_t whole = 0;
  const auto add = [&](const Value& value) {
    const auto number = as_number(value);
    if (!number) raise("sum: expected numbers, not '{}'", type_name(value));
    const auto exact = as_integer(value);
    real = real || !exact;
    total += *number;
    if (exact && __builtin_add_overflow(whole, *exact, &whole))
      raise("integer overflow: the sum does not fit 64 bits");
  };
  if (start != nullptr) add(*start);
  for (const Value& item : items_of(in, self)) add(path ? by_path(in, item, *path) : item);
  return real ? Value(total) : Value(whole);
}

Value group_by(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value path = arguments.required("attribute");
  const Value* given = arguments.take("default");
  const std::optional<Value> other = given != nullptr ? std::optional<Value>(*given) : std::nullopt;
  const bool case_sensitive = arguments.flag("case_sensitive", false);
  std::vector<Value> pairs;  // (what it is sorted by, as it stands, item)
  for (const Value& item : items_of(in, self)) {
    Value value = by_path(in, item, path);
    if (is_undefined(value) && other) value = *other;
    const Key key{std::nullopt, case_sensitive};
    pairs.emplace_back(in.heap().tuple({key(in, value), value, item}));
  }
  sort_by(in, pairs, {{Value(int64_t{0}), true}}, false);
  std::vector<Value> groups;
  std::optional<Value> current;
  for (const Value& pair : pairs) {
    const auto& parts = std::get<List*>(pair)->items;
    if (!current || !equal(in.heap(), *current, parts[0])) {
      current = parts[0];
      groups.emplace_back(in.heap().list({parts[1], in.heap().list()}, List::Kind::group));
    }
    in.heap().bytes(sizeof(Value));
    std::get<List*>(std::get<List*>(groups.back())->items[1])->items.push_back(parts[2]);
  }
  return in.heap().list(std::move(groups));
}

Value batch(Interpreter& in, const Value& self, Arguments& arguments) {
  const int64_t size = arguments.integer("linecount", 0);
  const Value* fill = arguments.take("fill_with");
  const std::optional<Value> filler =
      fill != nullptr && !is_none(*fill) ? std::optional<Value>(*fill) : std::nullopt;
  if (size < 1) raise("batch(): 'linecount' must be at least 1");
  const std::vector<Value> items = items_of(in, self);
  std::vector<Value> rows;
  for (size_t begin = 0; begin < items.size();) {
    const size_t end = begin + std::min(static_cast<size_t>(size), items.size() - begin);
    std::vector<Value> row(items.begin() + static_cast<std::ptrdiff_t>(begin),
                           items.begin() + static_cast<std::ptrdiff_t>(end));
    if (filler && row.size() < static_cast<size_t>(size)) {
      const size_t missing = static_cast<size_t>(size) - row.size();
      if (missing > in.heap().limits().bytes / sizeof(Value)) raise("batch(): 'linecount' is too large");
      in.heap().bytes(missing * sizeof(Value));
      row.resize(static_cast<size_t>(size), *filler);
    }
    rows.emplace_back(in.heap().list(std::move(row)));
    begin = end;
  }
  return in.heap().list(std::move(rows));
}

Value columns(Interpreter& in, const Value& self, Arguments& arguments) {
  const int64_t count = arguments.integer("slices", 0);
  const Value* fill = arguments.take("fill_with");
  const std::optional<Value> filler =
      fill != nullptr && !is_none(*fill) ? std::optional<Value>(*fill) : std::nullopt;
  if (count < 1 || count > 100000) raise("slice(): 'slices' must lie between 1 and 100000");
  const std::vector<Value> items = items_of(in, self);
  const size_t each = items.size() / static_cast<size_t>(count);
  const size_t longer = items.size() % static_cast<size_t>(count);
  std::vector<Value> result;
  size_t begin = 0;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const size_t size = each + (i < longer);
    std::vector<Value> part(items.begin() + static_cast<std::ptrdiff_t>(begin),
                            items.begin() + static_cast<std::ptrdiff_t>(begin + size));
    if (filler && i >= longer) part.push_back(*filler);
    result.emplace_back(in.heap().list(std::move(part)));
    begin += size;
  }
  return in.heap().list(std::move(result));
}

Value attribute(Interpreter& in, const Value& self, Arguments& arguments) {
  return in.attribute(self, arguments.text("name"));
}

constexpr NamedBuiltin kFilters[] = {
    {"attr", attribute},  {"batch", batch},      {"count", length_of},
    {"d", fallback},      {"default", fallback}, {"dictsort", dict_sort},
    {"first", first},     {"groupby", group_by}, {"items", dict_items},
    {"join", join},       {"last", last},        {"length", length_of},
    {"list", to_list},    {"map", map},          {"max", maximum},
    {"min", minimum},     {"reject", reject},    {"rejectattr", reject_attribute},
    {"reverse", reverse}, {"select", select},    {"selectattr", select_attribute},
    {"slice", columns},   {"sort", sort},        {"sum", sum},
    {"unique", unique},
};

}  // namespace

Builtin find_list_filter(std::string_view name) { return find_builtin(kFilters, name); }

}  // namespace quern::jinja
