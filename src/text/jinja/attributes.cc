// object.name and object[index].
#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/strings.h"

namespace quern::jinja {

namespace {

Value loop_attribute(const Loop& loop, std::string_view name) {
  const size_t size = loop.items.size();
  if (name == "index") return integer(loop.index + 1);
  if (name == "index0") return integer(loop.index);
  if (name == "revindex") return integer(size - loop.index);
  if (name == "revindex0") return integer(size - loop.index - 1);
  if (name == "first") return loop.index == 0;
  if (name == "last") return loop.index + 1 == size;
  if (name == "length") return integer(size);
  if (name == "depth") return integer(loop.depth0 + 1);
  if (name == "depth0") return integer(loop.depth0);
  if (name == "previtem" && loop.index > 0) return loop.items[loop.index - 1];
  if (name == "nextitem" && loop.index + 1 < size) return loop.items[loop.index + 1];
  return Undefined{name, "loop"};
}

Value list_item(Heap& heap, const List& list, int64_t index) {
  const auto size = static_cast<int64_t>(list.items.size());
  const int64_t place = index < 0 ? index + size : index;
  if (place >= 0 && place < size) return list.items[static_cast<size_t>(place)];
  return Undefined{heap.string(fmt::format("the list of {} items has no item {}", size, index)), ""};
}

Value string_item(Heap& heap, std::string_view text, int64_t index) {
  heap.walk(text);
  const auto size = static_cast<int64_t>(count_characters(text));
  const int64_t place = index < 0 ? index + size : index;
  if (place < 0 || place >= size) return Undefined{"a string has no character at this index", ""};
  heap.step(static_cast<size_t>(place) / 64);
  size_t begin = 0;
  for (int64_t i = 0; i < place; ++i) begin = character(text, begin).next;
  return text.substr(begin, character(text, begin).next - begin);
}

}  // namespace

Value Interpreter::attribute(const Value& object, std::string_view name) {
  if (const auto* undefined = as<Undefined>(object)) raise_undefined(*undefined);
  if (const auto* dict = as<Dict*>(object)) {
    if (const Value* value = find(heap_, **dict, name)) return *value;
  }
  if (const auto* names = as<Namespace*>(object)) {
    if (const Value* value = find(heap_, (*names)->attributes, name)) return *value;
  }
  if (const Builtin method = find_method(object, name)) {
    return heap_.function({.name = name, .builtin = method, .self = object});
  }
  if (const auto* loop = as<Loop*>(object)) return loop_attribute(**loop, name);
  if (const auto* list = as<List*>(object); list != nullptr && (*list)->kind == List::Kind::group) {
    if (name == "grouper") return (*list)->items[0];
    if (name == "list") return (*list)->items[1];
  }
  return Undefined{name, type_name(object)};
}

Value Interpreter::item(const Value& object, const Value& index) {
  if (const auto* undefined = as<Undefined>(object)) raise_undefined(*undefined);
  if (const auto* dict = as<Dict*>(object)) {
    if (const Value* value = find(heap_, **dict, index)) return *value;
  }
  if (const auto* name = as<std::string_view>(index)) return attribute(object, *name);
  if (const auto number = as_integer(index)) {
    if (const auto* list = as<List*>(object)) return list_item(heap_, **list, *number);
    if (const auto* text = as<std::string_view>(object)) return string_item(heap_, *text, *number);
  }
  return Undefined{to_string(heap_, index), type_name(object)};
}

}  // namespace quern::jinja
