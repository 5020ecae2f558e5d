// str's methods.
#include <algorithm>

#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"
#include "text/jinja/strings.h"

namespace quern::jinja {

Value pad_text(Heap& heap, std::string_view text, int64_t width, std::string_view fill, int side) {
  if (count_characters(fill) != 1) raise("the fill must be exactly one character");
  heap.walk(text);
  const auto size = static_cast<int64_t>(count_characters(text));
  if (width <= size) return text;
  const auto missing = static_cast<size_t>(width - size);
  if (missing > heap.limits().bytes) raise("a width of {} is too large", width);
  heap.bytes(missing * fill.size());
  // In the middle, an odd character goes where Python puts it: to the left when the width is odd.
  const size_t before = side > 0   ? missing
                        : side < 0 ? 0
                                   : missing / 2 + (missing & static_cast<size_t>(width) & 1);
  std::string out;
  for (size_t i = 0; i < before; ++i) out += fill;
  out += text;
  for (size_t i = before; i < missing; ++i) out += fill;
  return heap.string(std::move(out));
}

Value replace_method(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = std::get<std::string_view>(self);
  const std::string_view old = arguments.text("old");
  const std::string_view with = arguments.text("new");
  int64_t count = arguments.integer("count", -1);
  if (count < 0) count = INT64_MAX;
  Text out(in.heap());
  size_t begin = 0;
  while (count-- > 0) {
    const size_t found = find_text(text, old, begin);
    if (found == std::string_view::npos) break;
    out.add(text.substr(begin, found - begin));
    out.add(with);
    begin = found + old.size();
    if (!old.empty()) continue;
    // The empty string stands before every character and at the end.
    if (found >= text.size()) break;
    begin = character(text, found).next;
    out.add(text.substr(found, begin - found));
  }
  out.add(text.substr(std::min(begin, text.size())));
  return out.value();
}

std::string_view strip_method(Heap& heap, std::string_view text, Arguments& arguments, Strip strip) {
  const auto set = arguments.optional_text("chars");
  // A long set is searched for every character.
  if (set) heap.step(set->size() / 64 * (text.size() / 16 + 1));
  const std::string_view rest = strip(text, set);
  heap.step((text.size() - rest.size()) / 64);  // only what goes is walked over
  return rest;
}

namespace {

std::string_view self_text(const Value& self) { return std::get<std::string_view>(self); }

template <Strip strip>
Value stripped(Interpreter& in, const Value& self, Arguments& arguments) {
  return strip_method(in.heap(), self_text(self), arguments, strip);
}

/// Words between white space; at most `limit` splits, counted from the end that `reverse` says.
std::vector<Value> split_words(std::string_view text, size_t limit, bool reverse) {
  std::vector<Value> parts;
  if (reverse) {
    text = strip_right(text);
    while (!text.empty()) {
      if (parts.size() == limit) {
        parts.emplace_back(text);
        break;
      }
      size_t begin = text.size();
      while (begin > 0) {
        size_t previous = begin - 1;
        while (previous > 0 && (static_cast<unsigned char>(text[previous]) & 0xC0) == 0x80) --previous;
        if (is_space(character(text, previous).code)) break;
        begin = previous;
      }
      parts.emplace_back(text.substr(begin));
      text = strip_right(text.substr(0, begin));
    }
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  text = strip_left(text);
  while (!text.empty()) {
    if (parts.size() == limit) {
      parts.emplace_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size() && !is_space(character(text, end).code)) end = character(text, end).next;
    parts.emplace_back(text.substr(0, end));
    text = strip_left(text.substr(end));
  }
  return parts;
}

std::vector<Value> split_at(std::string_view text, std::string_view separator, size_t limit) {
  std::vector<Value> parts;
  size_t begin = 0;
  while (parts.size() < limit) {
    const size_t found = find_text(text, separator, begin);
    if (found == std::string_view::npos) break;
    parts.emplace_back(text.substr(begin, found - begin));
    begin = found + separator.size();
  }
  parts.emplace_back(text.substr(begin));
  return parts;
}

std::vector<Value> split_at_reverse(std::string_view text, std::string_view separator, size_t limit) {
  std::vector<Value> parts;
  while (parts.size() < limit) {
    const size_t found = text.rfind(separator);
    if (found == std::string_view::npos) break;
    parts.emplace_back(text.substr(found + separator.size()));
    text = text.substr(0, found);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Value split_either(Interpreter& in, const Value& self, Arguments& arguments, bool reverse) {
  const std::string_view text = self_text(self);
  const auto separator = arguments.optional_text("sep");
  const int64_t most = arguments.integer("maxsplit", -1);
  const size_t limit = most < 0 ? SIZE_MAX : static_cast<size_t>(most);
  if (separator && separator->empty()) raise("{}(): the separator is empty", arguments.function());
  in.heap().step(text.size() / 16);
  std::vector<Value> parts;
  if (!separator) {
    parts = split_words(text, limit, reverse);
  } else if (reverse && limit != SIZE_MAX) {
    in.heap().step(text.size() / 64 * separator->size());
    parts = split_at_reverse(text, *separator, limit);
  } else {
    parts = split_at(text, *separator, limit);
  }
  return in.heap().list(std::move(parts));
}

Value split(Interpreter& in, const Value& self, Arguments& arguments) {
  return split_either(in, self, arguments, false);
}
Value rsplit(Interpreter& in, const Value& self, Arguments& arguments) {
  return split_either(in, self, arguments, true);
}

Value split_lines(Interpreter& in, const Value& self, Arguments& arguments) {
  std::string_view text = self_text(self);
  const bool keep = arguments.flag("keepends", false);
  in.heap().walk(text);
  std::vector<Value> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("\n\r\v\f\x1c\x1d\x1e"), text.size());
    size_t next = std::min(end + 1, text.size());
    if (text.substr(end).starts_with("\r\n")) ++next;
    lines.emplace_back(text.substr(0, keep ? next : end));
    text = text.substr(next);
  }
  return in.heap().list(std::move(lines));
}

/// A position in characters; nothing where it is missing or none.
std::optional<int64_t> place_argument(Arguments& arguments, std::string_view name) {
  const Value* given = arguments.take(name);
  if (given == nullptr || is_none(*given)) return std::nullopt;
  const auto place = as_integer(*given);
  if (!place) raise("{}(): '{}' must be an integer, not '{}'", arguments.function(), name, type_name(*given));
  return place;
}

/// startswith and endswith: one string or a tuple of them, within [start, end).
bool matches_end(Interpreter& in, const Value& self, Arguments& arguments, bool at_start) {
  std::string_view text = self_text(self);
  const Value wanted = arguments.required(at_start ? "prefix" : "suffix");
  if (const auto* undefined = as<Undefined>(wanted)) raise_undefined(*undefined);
  const Value parts = as<std::string_view>(wanted) != nullptr ? Value(in.heap().tuple({wanted})) : wanted;
  const auto start = place_argument(arguments, "start");
  const auto end = place_argument(arguments, "end");
  if (start || end) text = std::get<std::string_view>(slice(in.heap(), self, start, end, 1));
  const auto* list = as<List*>(parts);
  if (list == nullptr) {
    raise("{}() needs a string or a tuple of strings, not '{}'", arguments.function(), type_name(wanted));
  }
  for (const Value& part : (*list)->items) {
    const auto* piece = as<std::string_view>(part);
    if (piece == nullptr) raise("{}() needs strings, not '{}'", arguments.function(), type_name(part));
    in.heap().match(*piece);
    if (at_start ? text.starts_with(*piece) : text.ends_with(*piece)) return true;
  }
  return false;
}

Value starts_with(Interpreter& in, const Value& self, Arguments& arguments) {
  return matches_end(in, self, arguments, true);
}
Value ends_with(Interpreter& in, const Value& self, Arguments& arguments) {
  return matches_end(in, self, arguments, false);
}

/// Position in characters, or −1. Optional start and end as in Python.
int64_t find_place(Interpreter& in, const Value& self, Arguments& arguments, bool last) {
  const std::string_view text = self_text(self);
  const std::string_view needle = arguments.text("sub");
  const auto size = static_cast<int64_t>(count_characters(text));
  const auto place = [&](int64_t index) {
    return std::clamp<int64_t>(index < 0 ? index + size : index, 0, size);
  };
  const int64_t start = place(arguments.integer("start", 0));
  const int64_t end = place(arguments.integer("end", size));
  in.heap().step(text.size() / 16 + (last ? text.size() / 64 * needle.size() : 0));
  const auto bytes = [&](int64_t index) {
    size_t at = 0;
    for (int64_t i = 0; i < index; ++i) at = character(text, at).next;
    return at;
  };
  if (start > end) return -1;
  const size_t begin = bytes(start);
  const std::string_view part = text.substr(begin, bytes(end) - begin);
  const size_t found = last ? part.rfind(needle) : find_text(part, needle);
  if (found == std::string_view::npos) return -1;
  return start + static_cast<int64_t>(count_characters(part.substr(0, found)));
}

Value find_first(Interpreter& in, const Value& self, Arguments& arguments) {
  return find_place(in, self, arguments, false);
}
Value find_last(Interpreter& in, const Value& self, Arguments& arguments) {
  return find_place(in, self, arguments, true);
}
Value index_first(Interpreter& in, const Value& self, Arguments& arguments) {
  const int64_t place = find_place(in, self, arguments, false);
  if (place < 0) raise("index(): the substring is not there");
  return place;
}
Value index_last(Interpreter& in, const Value& self, Arguments& arguments) {
  const int64_t place = find_place(in, self, arguments, true);
  if (place < 0) raise("rindex(): the substring is not there");
  return place;
}

Value count(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = self_text(self);
  in.heap().walk(text);
  const std::string_view needle = arguments.text("sub");
  if (needle.empty()) return integer(count_characters(text) + 1);
  size_t found = 0;
  for (size_t at = 0; (at = find_text(text, needle, at)) != std::string_view::npos; at += needle.size())
    ++found;
  return integer(found);
}

Value join(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::vector<Value> items = iterate(in.heap(), arguments.required("iterable"));
  Text out(in.heap());
  for (size_t i = 0; i < items.size(); ++i) {
    const auto* text = as<std::string_view>(items[i]);
    if (text == nullptr) raise("join(): item {} is not a string but '{}'", i, type_name(items[i]));
    if (i > 0) out.add(self_text(self));
    out.add(*text);
  }
  return out.value();
}

Value format(Interpreter& in, const Value& self, Arguments& arguments) {
  return in.heap().string(brace_format(in, self_text(self), arguments));
}

template <std::string (*map)(std::string_view)>
Value mapped(Interpreter& in, const Value& self, Arguments&) {
  return in.heap().string(map(self_text(self)));
}

template <bool (*kind)(std::string_view)>
Value is_kind(Interpreter& in, const Value& self, Arguments&) {
  in.heap().walk(self_text(self));
  return kind(self_text(self));
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}
bool is_title(std::string_view text) { return (is_upper(text) || !is_lower(text)) && title(text) == text; }

Value center(Interpreter& in, const Value& self, Arguments& arguments) {
  const int64_t width = arguments.integer("width", 0);
  return pad_text(in.heap(), self_text(self), width, arguments.text("fillchar", " "), 0);
}
Value left_justify(Interpreter& in, const Value& self, Arguments& arguments) {
  const int64_t width = arguments.integer("width", 0);
  return pad_text(in.heap(), self_text(self), width, arguments.text("fillchar", " "), -1);
}
Value right_justify(Interpreter& in, const Value& self, Arguments& arguments) {
  const int64_t width = arguments.integer("width", 0);
  return pad_text(in.heap(), self_text(self), width, arguments.text("fillchar", " "), 1);
}

Value zero_fill(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = self_text(self);
  const int64_t width = arguments.integer("width", 0);
  const bool sign = text.starts_with('-') || text.starts_with('+');
  if (!sign) return pad_text(in.heap(), text, width, "0", 1);
  Text out(in.heap());
  out.add(text[0]);
  out.add(std::get<std::string_view>(pad_text(in.heap(), text.substr(1), width > 0 ? width - 1 : 0, "0", 1)));
  return out.value();
}

Value partition(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = self_text(self);
  const std::string_view separator = arguments.text("sep");
  if (separator.empty()) raise("partition(): the separator is empty");
  in.heap().walk(text);
  const size_t found = find_text(text, separator);
  if (found == std::string_view::npos) return in.heap().tuple({text, std::string_view(), std::string_view()});
  return in.heap().tuple({text.substr(0, found), separator, text.substr(found + separator.size())});
}

Value rpartition(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = self_text(self);
  const std::string_view separator = arguments.text("sep");
  if (separator.empty()) raise("rpartition(): the separator is empty");
  in.heap().step(text.size() / 64 * (separator.size() + 1));
  const size_t found = text.rfind(separator);
  if (found == std::string_view::npos) return in.heap().tuple({std::string_view(), std::string_view(), text});
  return in.heap().tuple({text.substr(0, found), separator, text.substr(found + separator.size())});
}

Value remove_prefix(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = self_text(self);
  const std::string_view prefix = arguments.text("prefix");
  in.heap().match(prefix);
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}
Value remove_suffix(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = self_text(self);
  const std::string_view suffix = arguments.text("suffix");
  in.heap().match(suffix);
  return text.ends_with(suffix) ? text.substr(0, text.size() - suffix.size()) : text;
}

constexpr NamedBuiltin kMethods[] = {
    {"strip", stripped<strip>},
    {"lstrip", stripped<strip_left>},
    {"rstrip", stripped<strip_right>},
    {"split", split},
    {"rsplit", rsplit},
    {"splitlines", split_lines},
    {"startswith", starts_with},
    {"endswith", ends_with},
    {"replace", replace_method},
    {"upper", mapped<upper>},
    {"lower", mapped<lower>},
    {"casefold", mapped<lower>},
    {"title", mapped<title>},
    {"capitalize", mapped<capitalize>},
    {"swapcase", mapped<swap_case>},
    {"find", find_first},
    {"rfind", find_last},
    {"index", index_first},
    {"rindex", index_last},
    {"count", count},
    {"join", join},
    {"format", format},
    {"isdigit", is_kind<all_digits>},
    {"isdecimal", is_kind<all_digits>},
    {"isnumeric", is_kind<all_digits>},
    {"isalpha", is_kind<all_letters>},
    {"isalnum", is_kind<all_letters_or_digits>},
    {"isspace", is_kind<all_space>},
    {"isupper", is_kind<is_upper>},
    {"islower", is_kind<is_lower>},
    {"istitle", is_kind<is_title>},
    {"isascii", is_kind<is_ascii>},
    {"center", center},
    {"ljust", left_justify},
    {"rjust", right_justify},
    {"zfill", zero_fill},
    {"partition", partition},
    {"rpartition", rpartition},
    {"removeprefix", remove_prefix},
    {"removesuffix", remove_suffix},
};

}  // namespace

Builtin find_string_method(std::string_view name) { return find_builtin(kMethods, name); }

}  // namespace quern::jinja
