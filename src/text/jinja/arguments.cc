#include "text/jinja/arguments.h"

#include "text/jinja/error.h"

namespace quern::jinja {

void Arguments::add(std::string_view name, Value value) {
  heap_.step(named_.size() / 16);
  for (const auto& [other, ignored] : named_) {
    if (other == name) raise("{}() got the argument '{}' twice", function_, name);
  }
  named_.emplace_back(name, value);
}

const Value* Arguments::take(std::string_view name) {
  if (next_ < positional_.size()) return &positional_[next_++];
  for (size_t i = 0; i < named_.size(); ++i) {
    if (named_[i].first != name) continue;
    taken_ = named_[i].second;
    named_.erase(named_.begin() + static_cast<std::ptrdiff_t>(i));
    return &taken_;
  }
  return nullptr;
}

const Value& Arguments::required(std::string_view name) {
  const Value* value = take(name);
  if (value == nullptr) raise("{}() needs the argument '{}'", function_, name);
  return *value;
}

std::string_view Arguments::text(std::string_view name) {
  const Value& value = required(name);
  if (const auto* undefined = as<Undefined>(value)) raise_undefined(*undefined);
  const auto* text = as<std::string_view>(value);
  if (text == nullptr) raise("{}(): '{}' must be a string, not '{}'", function_, name, type_name(value));
  return *text;
}

std::optional<std::string_view> Arguments::optional_text(std::string_view name) {
  const Value* value = take(name);
  if (value == nullptr || is_none(*value)) return std::nullopt;
  if (const auto* undefined = as<Undefined>(*value)) raise_undefined(*undefined);
  const auto* text = as<std::string_view>(*value);
  if (text == nullptr) raise("{}(): '{}' must be a string, not '{}'", function_, name, type_name(*value));
  return *text;
}

std::string_view Arguments::text(std::string_view name, std::string_view fallback) {
  return optional_text(name).value_or(fallback);
}

int64_t Arguments::integer(std::string_view name, int64_t fallback) {
  const Value* value = take(name);
  if (value == nullptr || is_none(*value)) return fallback;
  if (const auto* undefined = as<Undefined>(*value)) raise_undefined(*undefined);
  const auto number = as_integer(*value);
  if (!number) raise("{}(): '{}' must be an integer, not '{}'", function_, name, type_name(*value));
  return *number;
}

bool Arguments::flag(std::string_view name, bool fallback) {
  const Value* value = take(name);
  return value == nullptr ? fallback : truthy(*value);
}

std::vector<Value> Arguments::rest() {
  std::vector<Value> values(positional_.begin() + static_cast<std::ptrdiff_t>(next_), positional_.end());
  next_ = positional_.size();
  return values;
}

std::vector<std::pair<std::string_view, Value>> Arguments::rest_named() { return std::exchange(named_, {}); }

void Arguments::finish() const {
  if (next_ < positional_.size()) {
    raise("{}() takes {} arguments, but {} were given", function_, next_, positional_.size());
  }
  if (!named_.empty()) raise("{}() has no argument '{}'", function_, named_[0].first);
}

}  // namespace quern::jinja
