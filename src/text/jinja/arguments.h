// The arguments of one call, taken by name and position as Python binds them.
#pragma once

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace quern::jinja {

class Arguments {
 public:
  Arguments(Heap& heap, std::string_view function) : heap_(heap), function_(function) {}
  void add(Value value) { positional_.push_back(value); }
  void add(std::string_view name, Value value);

  /// The next parameter, called `name`: given by position or by name, or null.
  const Value* take(std::string_view name);
  const Value& required(std::string_view name);
  /// A string; anything else but null is an error.
  std::string_view text(std::string_view name);
  std::string_view text(std::string_view name, std::string_view fallback);
  /// Nothing where the parameter is missing or none.
  std::optional<std::string_view> optional_text(std::string_view name);
  int64_t integer(std::string_view name, int64_t fallback);
  bool flag(std::string_view name, bool fallback);

  /// All further ones by position.
  std::vector<Value> rest();
  std::vector<std::pair<std::string_view, Value>> rest_named();
  /// Error when something was given that nobody took.
  void finish() const;

  std::string_view function() const { return function_; }

 private:
  Heap& heap_;
  std::string_view function_;  // for messages
  std::vector<Value> positional_;
  std::vector<std::pair<std::string_view, Value>> named_;
  size_t next_ = 0;
  Value taken_;
};

}  // namespace quern::jinja
