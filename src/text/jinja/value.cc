#include "text/jinja/value.h"

#include <cmath>

#include "text/jinja/error.h"
#include "text/jinja/strings.h"

namespace quern::jinja {

// --- Heap ---

Heap::~Heap() = default;

void Heap::bytes(size_t count) {
  if (count > limits_.bytes || bytes_ > limits_.bytes - count) {
    raise("the template builds more than {} MiB of text and lists", limits_.bytes >> 20);
  }
  bytes_ += count;
}

void Heap::too_many_steps() const {
  raise("the template takes more than {} steps; does it loop without end?", limits_.steps);
}

std::string_view Heap::string(std::string text) {
  bytes(text.size() + sizeof(std::string));
  return strings_.emplace_back(std::move(text));
}

List* Heap::list(std::vector<Value> items, List::Kind kind) {
  bytes(items.size() * sizeof(Value) + sizeof(List));
  return &lists_.emplace_back(List{std::move(items), kind});
}

Dict* Heap::dict() {
  bytes(sizeof(Dict));
  return &dicts_.emplace_back();
}

Namespace* Heap::names() {
  bytes(sizeof(Namespace));
  return &namespaces_.emplace_back();
}

Function* Heap::function(Function function) {
  bytes(sizeof(Function));
  return &functions_.emplace_back(function);
}

Loop* Heap::loop() {
  bytes(sizeof(Loop));
  return &loops_.emplace_back();
}

Scope* Heap::scope(Scope* parent) {
  bytes(sizeof(Scope));
  return &scopes_.emplace_back(parent);
}

Value Text::value() {
  heap_.bytes(sizeof(std::string));  // the text itself is counted already
  return heap_.adopt(std::move(text_));
}

// --- Scope ---

const Value* Scope::find(std::string_view name, Heap& heap) const {
  heap.match(name);
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent_) {
    heap.step(1 + scope->variables_.size() / 16);
    for (const auto& [key, value] : scope->variables_) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::set(std::string_view name, Value value, Heap& heap) {
  heap.match(name);
  heap.step(1 + variables_.size() / 16);
  for (auto& [key, old] : variables_) {
    if (key == name) {
      old = value;
      return;
    }
  }
  heap.bytes(sizeof(variables_[0]));
  variables_.emplace_back(name, value);
}

// --- Types and truth ---

const char* type_name(const Value& value) {
  struct Names {
    const char* operator()(const Undefined&) const { return "undefined"; }
    const char* operator()(const None&) const { return "NoneType"; }
    const char* operator()(bool) const { return "bool"; }
    const char* operator()(int64_t) const { return "int"; }
    const char* operator()(uint64_t) const { return "int"; }
    const char* operator()(double) const { return "float"; }
    const char* operator()(std::string_view) const { return "str"; }
    const char* operator()(const List* list) const {
      return list->kind == List::Kind::list ? "list" : "tuple";
    }
    const char* operator()(const Dict*) const { return "dict"; }
    const char* operator()(const Namespace*) const { return "namespace"; }
    const char* operator()(const Function* f) const { return f->macro != nullptr ? "macro" : "function"; }
    const char* operator()(const Loop*) const { return "loop"; }
  };
  return std::visit(Names{}, value);
}

void raise_undefined(const Undefined& value) {
  if (value.owner == nullptr) raise("'{}' is undefined", value.name);
  if (value.owner[0] == '\0') raise("{}", value.name);
  raise("'{}' object has no attribute '{}'", value.owner, value.name);
}

bool truthy(const Value& value) {
  struct Truth {
    bool operator()(const Undefined&) const { return false; }
    bool operator()(const None&) const { return false; }
    bool operator()(bool b) const { return b; }
    bool operator()(int64_t i) const { return i != 0; }
    bool operator()(uint64_t i) const { return i != 0; }
    bool operator()(double d) const { return d != 0; }
    bool operator()(std::string_view s) const { return !s.empty(); }
    bool operator()(const List* list) const { return !list->items.empty(); }
    bool operator()(const Dict* dict) const { return !dict->items.empty(); }
    bool operator()(const Namespace*) const { return true; }
    bool operator()(const Function*) const { return true; }
    bool operator()(const Loop*) const { return true; }
  };
  return std::visit(Truth{}, value);
}

std::optional<int64_t> as_integer(const Value& value) {
  if (const bool* b = as<bool>(value)) return *b ? 1 : 0;
  if (const int64_t* i = as<int64_t>(value)) return *i;
  return std::nullopt;
}

std::optional<double> as_number(const Value& value) {
  if (const double* d = as<double>(value)) return *d;
  if (const uint64_t* i = as<uint64_t>(value)) return static_cast<double>(*i);
  if (const auto i = as_integer(value)) return static_cast<double>(*i);
  return std::nullopt;
}

// --- Comparison ---

namespace {

void check_depth(int depth) {
  if (depth > kMaxValueDepth) raise("a value is nested deeper than {} levels", kMaxValueDepth);
}

bool equal_dicts(Heap& heap, const Dict& a, const Dict& b, int depth) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = find(heap, b, key);
    if (other == nullptr || !equal(heap, value, *other, depth + 1)) return false;
  }
  return true;
}

}  // namespace

bool equal(Heap& heap, const Value& a, const Value& b, int depth) {
  check_depth(depth);
  heap.step();
  if (const auto x = as_integer(a), y = as_integer(b); x && y) return *x == *y;
  if (const auto* x = as<uint64_t>(a), *y = as<uint64_t>(b); x != nullptr && y != nullptr) return *x == *y;
  if (const auto x = as_number(a), y = as_number(b); x && y) return *x == *y;
  if (a.index() != b.index()) return false;
  if (const auto* text = as<std::string_view>(a)) {
    heap.match(*text);
    return *text == std::get<std::string_view>(b);
  }
  if (const auto* list = as<List*>(a)) {
    const List* other = std::get<List*>(b);
    if (*list == other) return true;
    if (((*list)->kind == List::Kind::list) != (other->kind == List::Kind::list)) return false;
    if ((*list)->items.size() != other->items.size()) return false;
    for (size_t i = 0; i < other->items.size(); ++i) {
      if (!equal(heap, (*list)->items[i], other->items[i], depth + 1)) return false;
    }
    return true;
  }
  if (const auto* dict = as<Dict*>(a)) {
    const Dict* other = std::get<Dict*>(b);
    return *dict == other || equal_dicts(heap, **dict, *other, depth);
  }
  if (const auto* x = as<Namespace*>(a)) return *x == std::get<Namespace*>(b);
  if (const auto* x = as<Function*>(a)) return *x == std::get<Function*>(b);
  if (const auto* x = as<Loop*>(a)) return *x == std::get<Loop*>(b);
  return true;  // none and none, undefined and undefined
}

int compare(Heap& heap, const Value& a, const Value& b, const char* op, int depth) {
  check_depth(depth);
  heap.step();
  if (const auto* undefined = as<Undefined>(a)) raise_undefined(*undefined);
  if (const auto* undefined = as<Undefined>(b)) raise_undefined(*undefined);
  if (const auto x = as_integer(a), y = as_integer(b); x && y) return *x < *y ? -1 : *x > *y;
  if (const auto x = as_number(a), y = as_number(b); x && y) return *x < *y ? -1 : *x > *y;
  const auto* text = as<std::string_view>(a);
  const auto* other_text = as<std::string_view>(b);
  if (text != nullptr && other_text != nullptr) {
    heap.match(*text);
    const int order = text->compare(*other_text);  // UTF-8 sorts like its code points
    return order < 0 ? -1 : order > 0;
  }
  const auto* list = as<List*>(a);
  const auto* other_list = as<List*>(b);
  if (list != nullptr && other_list != nullptr) {
    const auto& x = (*list)->items;
    const auto& y = (*other_list)->items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!equal(heap, x[i], y[i], depth + 1)) return compare(heap, x[i], y[i], op, depth + 1);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  raise("'{}' not supported between '{}' and '{}'", op, type_name(a), type_name(b));
}

bool contains(Heap& heap, const Value& needle, const Value& haystack) {
  if (is_undefined(haystack)) return false;
  if (const auto* text = as<std::string_view>(haystack)) {
    if (const auto* undefined = as<Undefined>(needle)) raise_undefined(*undefined);
    const auto* part = as<std::string_view>(needle);
    if (part == nullptr) raise("'in <string>' requires a string on the left, not '{}'", type_name(needle));
    heap.walk(*text);
    return find_text(*text, *part) != std::string_view::npos;
  }
  if (const auto* list = as<List*>(haystack)) {
    for (const Value& item : (*list)->items) {
      if (equal(heap, item, needle)) return true;
    }
    return false;
  }
  if (const auto* dict = as<Dict*>(haystack)) return find(heap, **dict, needle) != nullptr;
  if (const auto* names = as<Namespace*>(haystack))
    return find(heap, (*names)->attributes, needle) != nullptr;
  raise("'in' needs a string, list or dict on the right, not '{}'", type_name(haystack));
}

// --- Dicts ---

const Value* find(Heap& heap, const Dict& dict, const Value& key) {
  heap.step(1 + dict.items.size() / 8);
  const auto* text = as<std::string_view>(key);
  for (const auto& [k, value] : dict.items) {
    if (text != nullptr) {
      const auto* other = as<std::string_view>(k);
      if (other == nullptr || other->size() != text->size()) continue;
      heap.match(*text);
      if (*other == *text) return &value;
    } else if (equal(heap, k, key)) {
      return &value;
    }
  }
  return nullptr;
}

void set(Heap& heap, Dict& dict, const Value& key, const Value& value) {
  if (const auto* undefined = as<Undefined>(key)) raise_undefined(*undefined);
  const auto* list = as<List*>(key);
  if (as<Dict*>(key) != nullptr || (list != nullptr && (*list)->kind == List::Kind::list)) {
    raise("a '{}' cannot be the key of a dict", type_name(key));
  }
  if (const Value* old = find(heap, dict, key)) {
    const_cast<Value&>(*old) = value;
    return;
  }
  heap.bytes(sizeof(dict.items[0]));
  dict.items.emplace_back(key, value);
}

// --- Printing ---

namespace {

void add_quoted(Text& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out.add(quote);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      out.add('\\');
      out.add(c);
    } else if (c == '\n') {
      out.add("\\n");
    } else if (c == '\r') {
      out.add("\\r");
    } else if (c == '\t') {
      out.add("\\t");
    } else if (byte < 0x20 || byte == 0x7F) {
      out.add(fmt::format("\\x{:02x}", byte));
    } else {
      out.add(c);
    }
  }
  out.add(quote);
}

void add_repr_of_list(Heap& heap, Text& out, const List& list, int depth) {
  const bool tuple = list.kind != List::Kind::list;
  out.add(tuple ? '(' : '[');
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) out.add(", ");
    add_repr(heap, out, list.items[i], depth + 1);
  }
  if (tuple && list.items.size() == 1) out.add(',');
  out.add(tuple ? ')' : ']');
}

void add_repr_of_dict(Heap& heap, Text& out, const Dict& dict, int depth) {
  out.add('{');
  for (size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) out.add(", ");
    add_repr(heap, out, dict.items[i].first, depth + 1);
    out.add(": ");
    add_repr(heap, out, dict.items[i].second, depth + 1);
  }
  out.add('}');
}

}  // namespace

void add_repr(Heap& heap, Text& out, const Value& value, int depth) {
  check_depth(depth);
  heap.step();
  if (const auto* text = as<std::string_view>(value)) {
    add_quoted(out, *text);
  } else if (const auto* list = as<List*>(value)) {
    add_repr_of_list(heap, out, **list, depth);
  } else if (const auto* dict = as<Dict*>(value)) {
    add_repr_of_dict(heap, out, **dict, depth);
  } else if (const auto* names = as<Namespace*>(value)) {
    out.add("<Namespace ");
    add_repr_of_dict(heap, out, (*names)->attributes, depth);
    out.add('>');
  } else if (const auto* function = as<Function*>(value)) {
    out.add(fmt::format("<{} '{}'>", type_name(value), (*function)->name));
  } else if (const auto* loop = as<Loop*>(value)) {
    out.add(fmt::format("<LoopContext {}/{}>", (*loop)->index + 1, (*loop)->items.size()));
  } else if (is_undefined(value)) {
    out.add("Undefined");
  } else {
    out.add(to_string(heap, value));
  }
}

std::string_view to_string(Heap& heap, const Value& value) {
  if (is_undefined(value)) return "";
  if (is_none(value)) return "None";
  if (const bool* b = as<bool>(value)) return *b ? "True" : "False";
  if (const int64_t* i = as<int64_t>(value)) return heap.string(std::to_string(*i));
  if (const uint64_t* i = as<uint64_t>(value)) return heap.string(std::to_string(*i));
  if (const double* d = as<double>(value)) return heap.string(float_text(*d));
  if (const auto* text = as<std::string_view>(value)) return *text;
  Text out(heap);
  add_repr(heap, out, value);
  return std::get<std::string_view>(out.value());
}

// --- Iteration ---

std::vector<Value> iterate(Heap& heap, const Value& value) {
  std::vector<Value> items;
  if (is_undefined(value)) return items;
  if (const auto* list = as<List*>(value)) {
    heap.bytes((*list)->items.size() * sizeof(Value));
    return (*list)->items;
  }
  if (const auto* text = as<std::string_view>(value)) {
    heap.bytes(text->size() * sizeof(Value));
    for (const std::string_view c : characters(*text)) items.emplace_back(c);
    return items;
  }
  const Dict* dict = nullptr;
  if (const auto* d = as<Dict*>(value)) dict = *d;
  if (dict == nullptr) raise("'{}' object is not iterable", type_name(value));
  heap.bytes(dict->items.size() * sizeof(Value));
  for (const auto& [key, ignored] : dict->items) items.push_back(key);
  return items;
}

size_t length(Heap& heap, const Value& value) {
  if (is_undefined(value)) return 0;
  if (const auto* text = as<std::string_view>(value)) {
    heap.walk(*text);
    return count_characters(*text);
  }
  if (const auto* list = as<List*>(value)) return (*list)->items.size();
  if (const auto* dict = as<Dict*>(value)) return (*dict)->items.size();
  raise("object of type '{}' has no length", type_name(value));
}

}  // namespace quern::jinja
