#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/error.h"
#include "text/jinja/format.h"
#include "text/jinja/json.h"
#include "text/jinja/strings.h"

namespace quern::jinja {
namespace {

const char* symbol(MathOperator op) {
  static constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "**", "~"};
  return kSymbols[static_cast<size_t>(op)];
}

[[noreturn]] void overflow() { raise("integer overflow: the result does not fit 64 bits"); }

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

/// Rounds down, and the remainder has the divisor's sign, as in Python.
int64_t floor_divide(int64_t a, int64_t b) {
  if (b == -1) {
    int64_t result = 0;
    if (__builtin_sub_overflow(int64_t{0}, a, &result)) overflow();
    return result;
  }
  return a / b - ((a % b != 0) && ((a % b < 0) != (b < 0)));
}

int64_t modulo(int64_t a, int64_t b) {
  if (b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Value integer_math(MathOperator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case MathOperator::add:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return result;
    case MathOperator::subtract:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return result;
    case MathOperator::multiply:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return result;
    case MathOperator::power:
      if (b < 0) break;
      if (a == 1 || (a == -1 && b % 2 == 0)) return int64_t{1};
      return integer_power(a, b);
    default:
      break;
  }
  if (b == 0) raise("division by zero");
  if (op == MathOperator::floor_divide) return floor_divide(a, b);
  if (op == MathOperator::modulo) return modulo(a, b);
  return static_cast<double>(a) / static_cast<double>(b);
}

Value real_math(MathOperator op, double a, double b) {
  switch (op) {
    case MathOperator::add:
      return a + b;
    case MathOperator::subtract:
      return a - b;
    case MathOperator::multiply:
      return a * b;
    case MathOperator::power: {
      if (a == 0 && b < 0) raise("zero cannot be raised to a negative power");
      const double result = std::pow(a, b);
      if (!std::isfinite(result)) raise("the result of '**' is not a finite real number");
      return result;
    }
    default:
      break;
  }
  if (b == 0) raise("division by zero");
  if (op == MathOperator::divide) return a / b;
  if (op == MathOperator::floor_divide) return std::floor(a / b);
  const double rest = std::fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Value repeat(Heap& heap, const Value& value, int64_t count) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  const auto check = [&](size_t size) {
    if (size != 0 && times > heap.limits().bytes / size) {
      raise("repeating {} times builds more than {} MiB", times, heap.limits().bytes >> 20);
    }
  };
  if (const auto* text = as<std::string_view>(value)) {
    check(text->size());
    if (text->size() == 1) {
      Text out(heap);
      out.add((*text)[0], times);
      return out.value();
    }
    Text out(heap);
    for (size_t i = 0; i < times && !text->empty(); ++i) out.add(*text);
    return out.value();
  }
  const List& list = *std::get<List*>(value);
  check(list.items.size() * sizeof(Value));
  heap.bytes(list.items.size() * sizeof(Value) * times);
  std::vector<Value> items;
  for (size_t i = 0; i < times && !list.items.empty(); ++i) {
    items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return heap.list(std::move(items), list.kind);
}

Value join(Heap& heap, const Value& a, const Value& b) {
  Text out(heap);
  out.add(to_string(heap, a));
  out.add(to_string(heap, b));
  return out.value();
}

bool is_text(const Value& value) { return as<std::string_view>(value) != nullptr; }
bool is_list(const Value& value) { return as<List*>(value) != nullptr; }

}  // namespace

Value math(Heap& heap, MathOperator op, const Value& a, const Value& b) {
  if (op == MathOperator::concatenate) return join(heap, a, b);
  if (const auto* undefined = as<Undefined>(a)) raise_undefined(*undefined);
  if (op == MathOperator::modulo && is_text(a)) {
    return heap.string(percent_format(heap, std::get<std::string_view>(a), b));
  }
  if (const auto* undefined = as<Undefined>(b)) raise_undefined(*undefined);
  if (const auto x = as_integer(a), y = as_integer(b); x && y) {
    if (op == MathOperator::power && *y < 0) {
      return real_math(op, static_cast<double>(*x), static_cast<double>(*y));
    }
    return integer_math(op, *x, *y);
  }
  if (const auto x = as_number(a), y = as_number(b); x && y) return real_math(op, *x, *y);
  if (op == MathOperator::add) {
    const bool joins = (is_text(a) || as_number(a)) && (is_text(b) || as_number(b));
    if (joins) return join(heap, a, b);
    // Arguments of a tool call, given as an object to a template that expects their text.
    if (is_text(a) && as<Dict*>(b) != nullptr) {
      Text out(heap);
      out.add(std::get<std::string_view>(a));
      add_json(heap, out, b, JsonStyle());
      return out.value();
    }
    if (is_list(a) && is_list(b)) {
      std::vector<Value> items = iterate(heap, a);
      const auto& more = std::get<List*>(b)->items;
      heap.bytes(more.size() * sizeof(Value));
      items.insert(items.end(), more.begin(), more.end());
      return heap.list(std::move(items), std::get<List*>(a)->kind);
    }
  }
  if (op == MathOperator::multiply) {
    if (const auto count = as_integer(b); count && (is_text(a) || is_list(a))) return repeat(heap, a, *count);
    if (const auto count = as_integer(a); count && (is_text(b) || is_list(b))) return repeat(heap, b, *count);
  }
  raise("'{}' cannot combine '{}' and '{}'", symbol(op), type_name(a), type_name(b));
}

Value negate(const Value& value) {
  if (const auto* undefined = as<Undefined>(value)) raise_undefined(*undefined);
  if (const auto i = as_integer(value)) return integer_math(MathOperator::subtract, 0, *i);
  if (const auto d = as_number(value)) return -*d;
  raise("'-' needs a number, not '{}'", type_name(value));
}

namespace {

/// text[start:stop], a view.
std::string_view slice_text(std::string_view text, std::optional<int64_t> start,
                            std::optional<int64_t> stop) {
  const auto count = static_cast<int64_t>(count_characters(text));
  const auto place = [&](int64_t index) {
    return std::clamp<int64_t>(index < 0 ? index + count : index, 0, count);
  };
  const int64_t first = place(start.value_or(0));
  const int64_t last = std::max(first, place(stop.value_or(count)));
  size_t begin = 0;
  for (int64_t i = 0; i < first; ++i) begin = character(text, begin).next;
  size_t end = begin;
  for (int64_t i = first; i < last; ++i) end = character(text, end).next;
  return text.substr(begin, end - begin);
}

/// The indices that start:stop:step visits among `size` items.
std::vector<size_t> slice_indices(size_t size, std::optional<int64_t> start, std::optional<int64_t> stop,
                                  int64_t step) {
  const auto count = static_cast<int64_t>(size);
  const int64_t lowest = step > 0 ? 0 : -1;
  const int64_t highest = step > 0 ? count : count - 1;
  const auto place = [&](std::optional<int64_t> index, int64_t fallback) {
    if (!index) return fallback;
    return std::clamp(*index < 0 ? *index + count : *index, lowest, highest);
  };
  int64_t i = place(start, step > 0 ? lowest : highest);
  const int64_t end = place(stop, step > 0 ? highest : lowest);
  std::vector<size_t> indices;
  while (step > 0 ? i < end : i > end) {
    indices.push_back(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return indices;
}

}  // namespace

Value slice(Heap& heap, const Value& value, std::optional<int64_t> start, std::optional<int64_t> stop,
            int64_t step) {
  if (step == 0) raise("the step of a slice cannot be zero");
  if (const auto* undefined = as<Undefined>(value)) raise_undefined(*undefined);
  if (const auto* list = as<List*>(value)) {
    const auto& items = (*list)->items;
    heap.step(items.size() / 4);
    std::vector<Value> chosen;
    for (const size_t i : slice_indices(items.size(), start, stop, step)) chosen.push_back(items[i]);
    return heap.list(std::move(chosen), (*list)->kind);
  }
  const auto* text = as<std::string_view>(value);
  if (text == nullptr) raise("only lists and strings can be sliced, not '{}'", type_name(value));
  heap.step(text->size() / 16);
  if (step == 1) return slice_text(*text, start, stop);
  heap.bytes(text->size() * sizeof(std::string_view));
  const std::vector<std::string_view> all = characters(*text);
  Text out(heap);
  for (const size_t i : slice_indices(all.size(), start, stop, step)) out.add(all[i]);
  return out.value();
}

}  // namespace quern::jinja
