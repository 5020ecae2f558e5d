// What a template computes with: Python's values as far as templates see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quern::jinja {

struct List;
struct Dict;
struct Namespace;
struct Function;
struct Loop;

struct None {};

/// A name that is not there. It prints as nothing, is false and iterates over nothing; anything else is an
/// error that names it.
struct Undefined {
  std::string_view name = {};   // what was looked up
  const char* owner = nullptr;  // the type that lacks it; none for a variable
};

/// Strings are UTF-8 and, like all compound values, owned by the Heap of one rendering, by its variables or
/// by the parsed template; a Value is a cheap handle.
/// uint64_t holds integers beyond int64_t, as JSON may have them: they print whole and compute as floats.
using Value = std::variant<Undefined, None, bool, int64_t, uint64_t, double, std::string_view, List*, Dict*,
                           Namespace*, Function*, Loop*>;

class Interpreter;
class Arguments;
class Scope;
struct ForStatement;
struct MacroStatement;

/// Filters, tests, methods and global functions alike; `self` is what stands before the bar or the dot.
using Builtin = Value (*)(Interpreter&, const Value& self, Arguments&);

struct List {
  std::vector<Value> items;
  enum class Kind : uint8_t { list, tuple, group } kind = Kind::list;  // group: what groupby yields
};

/// In order of insertion; keys are null, bool, number, string or tuple. Searched one by one: what templates
/// hold is small, and every step is counted.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
};

struct Namespace {
  Dict attributes;
};

struct Function {
  std::string_view name;
  Builtin builtin = nullptr;
  Value self;                             // of a bound method
  const MacroStatement* macro = nullptr;  // of a macro or a call block, with the scope that it closes over
  Scope* scope = nullptr;
};

/// The `loop` variable.
struct Loop {
  std::vector<Value> items;
  size_t index = 0;
  std::optional<Value> changed;             // what loop.changed() saw last
  const ForStatement* recursive = nullptr;  // what loop(items) runs, and the scope around it; null: nothing
  Scope* scope = nullptr;
  size_t depth0 = 0;  // how many such calls this one is in
};

struct Limits {
  size_t bytes = size_t{128} << 20;  // all that one rendering builds, put together
  size_t output = size_t{32} << 20;  // the text at the end
  size_t steps = 5'000'000;
  size_t depth = 700;  // of evaluation: expressions, statements and macro calls
};

/// Owns what one rendering builds, until it ends: no value can outlive its use, a list that holds itself is
/// no leak, and no destructor recurses. Counts bytes and steps, and throws TemplateError at the limit, before
/// it allocates.
class Heap {
 public:
  explicit Heap(const Limits& limits) : limits_(limits) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  void bytes(size_t count);
  void step(size_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.steps) [[unlikely]]
      too_many_steps();
  }
  /// The steps of going through all of `text` once.
  void walk(std::string_view text) { step(text.size() / 64); }
  /// The steps of comparing it with one string.
  void match(std::string_view text) { step(text.size() / 256); }

  std::string_view string(std::string text);
  std::string_view adopt(std::string text) {
    return strings_.emplace_back(std::move(text));
  }  // counted already
  List* list(std::vector<Value> items = {}, List::Kind kind = List::Kind::list);
  List* tuple(std::vector<Value> items) { return list(std::move(items), List::Kind::tuple); }
  Dict* dict();
  Namespace* names();
  Function* function(Function function);
  Loop* loop();
  Scope* scope(Scope* parent);
  ~Heap();

  const Limits& limits() const { return limits_; }

 private:
  [[noreturn]] void too_many_steps() const;

  Limits limits_;
  size_t bytes_ = 0;
  size_t steps_ = 0;
  std::deque<std::string> strings_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Namespace> namespaces_;
  std::deque<Function> functions_;
  std::deque<Loop> loops_;
  std::deque<Scope> scopes_;
};

/// Text that grows under the Heap's count.
class Text {
 public:
  explicit Text(Heap& heap) : heap_(heap) {}
  void add(std::string_view piece) {
    heap_.bytes(piece.size());
    text_ += piece;
  }
  void add(char c, size_t count = 1) {
    heap_.bytes(count);
    text_.append(count, c);
  }
  const std::string& view() const { return text_; }
  std::string take() { return std::move(text_); }
  Value value();  // moves the text to the Heap

 private:
  Heap& heap_;
  std::string text_;
};

/// Variables of one block; what is not here is looked up in the parent.
class Scope {
 public:
  explicit Scope(Scope* parent) : parent_(parent) {}
  const Value* find(std::string_view name, Heap& heap) const;
  void set(std::string_view name, Value value, Heap& heap);
  void clear() { variables_.clear(); }

 private:
  Scope* parent_;
  std::vector<std::pair<std::string_view, Value>> variables_;
};

template <class T>
const T* as(const Value& value) {
  return std::get_if<T>(&value);
}
inline bool is_undefined(const Value& value) { return std::holds_alternative<Undefined>(value); }
inline bool is_none(const Value& value) { return std::holds_alternative<None>(value); }
inline Value integer(size_t value) { return static_cast<int64_t>(value); }

/// Python's name of the type ("str", "int", "list" …), for messages.
const char* type_name(const Value& value);
/// The error that using an undefined value is: "'x' is undefined".
[[noreturn]] void raise_undefined(const Undefined& value);

bool truthy(const Value& value);
/// bool, integer or float as a number.
std::optional<double> as_number(const Value& value);
/// bool or integer.
std::optional<int64_t> as_integer(const Value& value);

/// Python's ==.
bool equal(Heap& heap, const Value& a, const Value& b, int depth = 0);
/// Python's <, by sign: −1, 0, 1; an error for types that have no order (`op` is for its message).
int compare(Heap& heap, const Value& a, const Value& b, const char* op, int depth = 0);
/// Python's `needle in haystack`.
bool contains(Heap& heap, const Value& needle, const Value& haystack);

const Value* find(Heap& heap, const Dict& dict, const Value& key);
void set(Heap& heap, Dict& dict, const Value& key, const Value& value);

/// Python's str(): a string stays as it is, an undefined value is empty.
std::string_view to_string(Heap& heap, const Value& value);
/// Adds Python's repr() to `text`.
void add_repr(Heap& heap, Text& text, const Value& value, int depth = 0);

/// The items that a `for` visits: of a list, a string's characters, a dict's keys, none of undefined.
std::vector<Value> iterate(Heap& heap, const Value& value);
/// len(): an error where there is none.
size_t length(Heap& heap, const Value& value);

inline constexpr int kMaxValueDepth = 128;  // of nested lists and dicts that are read, printed or compared

}  // namespace quern::jinja
