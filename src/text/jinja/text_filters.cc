// Filters that turn values into text or read them from it.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/json.h"
#include "text/jinja/methods.h"
#include "text/jinja/strings.h"

namespace quern::jinja {

std::string_view operand_text(Heap& heap, const Value& value, std::string_view filter) {
  if (is_none(value)) raise("{}: expected a string, not none", filter);
  return to_string(heap, value);
}

namespace {

std::string_view text_of(Interpreter& in, const Value& self, const Arguments& arguments) {
  return operand_text(in.heap(), self, arguments.function());
}

Value trim(Interpreter& in, const Value& self, Arguments& arguments) {
  return strip_method(in.heap(), text_of(in, self, arguments), arguments, strip);
}

Value upper(Interpreter& in, const Value& self, Arguments& arguments) {
  return in.heap().string(jinja::upper(text_of(in, self, arguments)));
}

Value lower(Interpreter& in, const Value& self, Arguments& arguments) {
  return in.heap().string(jinja::lower(text_of(in, self, arguments)));
}

Value capitalize(Interpreter& in, const Value& self, Arguments& arguments) {
  return in.heap().string(jinja::capitalize(text_of(in, self, arguments)));
}

/// Words start after white space, '-' and opening brackets; the rest of a word becomes lower case.
Value title(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = text_of(in, self, arguments);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    const auto separates = [&](size_t at) {
      const Character c = character(text, at);
      return is_space(c.code) ||
             (c.code < 0x80 && std::string_view("-({[<").find(text[at]) != std::string_view::npos);
    };
    const bool separator = separates(i);
    while (end < text.size() && separates(end) == separator) end = character(text, end).next;
    out += separator ? std::string(text.substr(i, end - i)) : jinja::capitalize(text.substr(i, end - i));
    i = end;
  }
  return in.heap().string(std::move(out));
}

Value replace(Interpreter& in, const Value& self, Arguments& arguments) {
  return replace_method(in, text_of(in, self, arguments), arguments);
}

Value string(Interpreter& in, const Value& self, Arguments&) { return to_string(in.heap(), self); }

Value same(Interpreter&, const Value& self, Arguments&) { return self; }

Value escape(Interpreter& in, const Value& self, Arguments&) {
  Text out(in.heap());
  for (const char c : to_string(in.heap(), self)) {
    switch (c) {
      case '&':
        out.add("&amp;");
        break;
      case '<':
        out.add("&lt;");
        break;
      case '>':
        out.add("&gt;");
        break;
      case '\'':
        out.add("&#39;");
        break;
      case '"':
        out.add("&#34;");
        break;
      default:
        out.add(c);
    }
  }
  return out.value();
}

/// A count of spaces, checked before they are built.
std::string spaces(Heap& heap, int64_t count) {
  const auto size = static_cast<size_t>(std::max<int64_t>(count, 0));
  heap.bytes(size);
  return std::string(size, ' ');
}

Value to_json(Interpreter& in, const Value& self, Arguments& arguments) {
  // The order of transformers' own tojson, which replaces Jinja2's.
  JsonStyle style;
  style.ensure_ascii = arguments.flag("ensure_ascii", false);
  const Value* indent = arguments.take("indent");
  if (indent != nullptr && !is_none(*indent)) {
    const auto* text = as<std::string_view>(*indent);
    const auto width = as_integer(*indent);
    if (text == nullptr && !width) raise("tojson(): 'indent' must be a number or a string");
    style.indent = text != nullptr ? std::string(*text) : spaces(in.heap(), *width);
    style.item_separator = ",";
  }
  const Value* separators = arguments.take("separators");
  if (separators != nullptr && !is_none(*separators)) {
    const std::vector<Value> pair = iterate(in.heap(), *separators);
    const auto* item = pair.size() == 2 ? as<std::string_view>(pair[0]) : nullptr;
    const auto* key = pair.size() == 2 ? as<std::string_view>(pair[1]) : nullptr;
    if (item == nullptr || key == nullptr) raise("tojson(): 'separators' must be two strings");
    style.item_separator = *item;
    style.key_separator = *key;
  }
  style.sort_keys = arguments.flag("sort_keys", false);
  Text out(in.heap());
  add_json(in.heap(), out, self, style);
  return out.value();
}

Value indent(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = text_of(in, self, arguments);
  const Value* width = arguments.take("width");
  std::string margin;
  if (const auto* prefix = width != nullptr ? as<std::string_view>(*width) : nullptr) {
    margin = *prefix;
  } else {
    const auto count = width != nullptr ? as_integer(*width) : int64_t{4};
    if (!count) raise("indent(): 'width' must be a number or a string");
    margin = spaces(in.heap(), *count);
  }
  const bool first = arguments.flag("first", false);
  const bool blank = arguments.flag("blank", false);
  Text out(in.heap());
  for (size_t begin = 0, line = 0; begin <= text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    if (line > 0) out.add('\n');
    // Blank lines at the start of the text count as its first line does.
    if (line == 0 ? first : (blank || !part.empty())) out.add(margin);
    out.add(part);
    begin = end + 1;
  }
  return out.value();
}

/// As Python's int(): white space around, a sign, digits.
std::optional<int64_t> parse_integer(std::string_view text, int base) {
  text = strip(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  if (text.size() > 2 && text[0] == '0') {
    const char mark = static_cast<char>(text[1] | 0x20);
    if ((base == 16 && mark == 'x') || (base == 8 && mark == 'o') || (base == 2 && mark == 'b'))
      text.remove_prefix(2);
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size() || text.starts_with('-')) return std::nullopt;
  return negative ? -value : value;
}

std::optional<double> parse_real(std::string_view text) {
  text = strip(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<int64_t> truncate(double value) {
  if (!std::isfinite(value) || std::fabs(value) >= 9.2e18) return std::nullopt;
  return static_cast<int64_t>(value);
}

Value to_integer(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value* given = arguments.take("default");
  const Value fallback = given != nullptr ? *given : Value(int64_t{0});
  const int64_t base = arguments.integer("base", 10);
  if (base < 2 || base > 36) raise("int(): 'base' must be between 2 and 36");
  if (const auto* text = as<std::string_view>(self)) {
    in.heap().walk(*text);
    if (const auto value = parse_integer(*text, static_cast<int>(base))) return *value;
    if (const auto real = parse_real(*text)) {
      if (const auto value = truncate(*real)) return *value;
    }
    return fallback;
  }
  if (as<uint64_t>(self) != nullptr) return self;
  if (const auto value = as_integer(self)) return *value;
  if (const auto* real = as<double>(self)) {
    if (const auto value = truncate(*real)) return *value;
  }
  return fallback;
}

Value to_real(Interpreter& in, const Value& self, Arguments& arguments) {
  const Value* given = arguments.take("default");
  const Value fallback = given != nullptr ? *given : Value(0.0);
  if (const auto value = as_number(self)) return *value;
  if (const auto* text = as<std::string_view>(self)) {
    in.heap().walk(*text);
    if (const auto value = parse_real(*text)) return *value;
  }
  return fallback;
}

Value absolute(Interpreter&, const Value& self, Arguments&) {
  if (const auto value = as_integer(self)) {
    if (*value == INT64_MIN) raise("integer overflow: the result does not fit 64 bits");
    return *value < 0 ? -*value : *value;
  }
  if (const auto* value = as<double>(self)) return std::fabs(*value);
  raise("abs: expected a number, not '{}'", type_name(self));
}

/// An integer stays one; a negative precision rounds halves to even, as Python's round().
int64_t round_integer(int64_t value, int64_t precision) {
  if (precision >= 0) return value;
  if (precision < -18) return 0;
  int64_t unit = 1;
  for (int64_t i = 0; i > precision; --i) unit *= 10;
  int64_t count = value / unit;
  const int64_t rest = value % unit, twice = 2 * std::abs(rest);
  if (twice > unit || (twice == unit && count % 2 != 0)) count += value < 0 ? -1 : 1;
  int64_t rounded = 0;
  if (__builtin_mul_overflow(count, unit, &rounded))
    raise("integer overflow: the result does not fit 64 bits");
  return rounded;
}

Value round(Interpreter&, const Value& self, Arguments& arguments) {
  const int64_t precision = arguments.integer("precision", 0);
  const std::string_view method = arguments.text("method", "common");
  const auto value = as_number(self);
  if (!value) raise("round: expected a number, not '{}'", type_name(self));
  if (precision < -300 || precision > 300) raise("round(): 'precision' must lie between -300 and 300");
  if (const auto whole = as_integer(self); whole && method == "common")
    return round_integer(*whole, precision);
  if (method == "common" && precision > 0) {
    // Decimal rounding of the exact value, as Python's round().
    return std::strtod(fmt::format("{:.{}f}", *value, precision).c_str(), nullptr);
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  double scaled = *value * scale;
  if (method == "common") {
    scaled = std::nearbyint(scaled);
  } else if (method == "ceil") {
    scaled = std::ceil(scaled);
  } else if (method == "floor") {
    scaled = std::floor(scaled);
  } else {
    raise("round(): 'method' must be common, ceil or floor");
  }
  return scaled / scale;
}

Value word_count(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = text_of(in, self, arguments);
  in.heap().walk(text);
  const auto is_word = [&](size_t at) {
    const Character c = character(text, at);
    return text[at] == '_' || all_letters_or_digits(text.substr(at, c.next - at));
  };
  size_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size(); i = character(text, i).next) {
    const bool word = is_word(i);
    words += word && !inside;
    inside = word;
  }
  return integer(words);
}

/// In a query a blank is '+' and '/' is escaped; in a path it is the other way round.
void add_url(Text& out, std::string_view text, bool query) {
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_.-~").find(c) != std::string_view::npos || (!query && c == '/');
    if (plain) {
      out.add(c);
    } else if (query && c == ' ') {
      out.add('+');
    } else {
      out.add(fmt::format("%{:02X}", static_cast<unsigned char>(c)));
    }
  }
}

Value url_encode(Interpreter& in, const Value& self, Arguments&) {
  Text out(in.heap());
  const auto* dict = as<Dict*>(self);
  const auto* list = as<List*>(self);
  if (dict == nullptr && list == nullptr) {
    add_url(out, to_string(in.heap(), self), false);
    return out.value();
  }
  std::vector<std::pair<Value, Value>> pairs;
  if (dict != nullptr) pairs = (*dict)->items;
  for (const Value& item : list != nullptr ? (*list)->items : std::vector<Value>()) {
    const std::vector<Value> pair = iterate(in.heap(), item);
    if (pair.size() != 2) raise("urlencode: expected pairs of a name and a value");
    pairs.emplace_back(pair[0], pair[1]);
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (i > 0) out.add('&');
    add_url(out, to_string(in.heap(), pairs[i].first), true);
    out.add('=');
    add_url(out, to_string(in.heap(), pairs[i].second), true);
  }
  return out.value();
}

Value format(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = text_of(in, self, arguments);
  Value values = in.heap().tuple(arguments.rest());
  if (auto named = arguments.rest_named(); !named.empty()) {
    if (!std::get<List*>(values)->items.empty())
      raise("format(): either positional or named arguments, not both");
    Dict* dict = in.heap().dict();
    for (const auto& [name, value] : named) set(in.heap(), *dict, name, value);
    values = dict;
  }
  return in.heap().string(percent_format(in.heap(), text, values));
}

Value center(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = text_of(in, self, arguments);
  return pad_text(in.heap(), text, arguments.integer("width", 80), " ", 0);
}

Value truncate_text(Interpreter& in, const Value& self, Arguments& arguments) {
  const std::string_view text = text_of(in, self, arguments);
  const auto length = static_cast<size_t>(std::max<int64_t>(arguments.integer("length", 255), 0));
  const bool kill_words = arguments.flag("killwords", false);
  const std::string_view end = arguments.text("end", "...");
  const auto leeway = static_cast<size_t>(std::max<int64_t>(arguments.integer("leeway", 5), 0));
  in.heap().bytes(text.size() * sizeof(std::string_view));
  const std::vector<std::string_view> all = characters(text);
  const size_t end_size = count_characters(end);
  if (length < end_size) raise("truncate(): 'length' is less than the {} characters of 'end'", end_size);
  if (leeway >= all.size() || all.size() - leeway <= length) return text;
  size_t bytes = 0;
  for (size_t i = 0; i < length - end_size; ++i) bytes += all[i].size();
  std::string_view kept = text.substr(0, bytes);
  if (!kill_words) kept = kept.substr(0, kept.rfind(' '));
  Text out(in.heap());
  out.add(kept);
  out.add(end);
  return out.value();
}

constexpr NamedBuiltin kFilters[] = {
    {"abs", absolute},
    {"capitalize", capitalize},
    {"center", center},
    {"e", escape},
    {"escape", escape},
    {"float", to_real},
    {"forceescape", escape},
    {"format", format},
    {"indent", indent},
    {"int", to_integer},
    {"lower", lower},
    {"replace", replace},
    {"round", round},
    {"safe", same},
    {"string", string},
    {"title", title},
    {"tojson", to_json},
    {"trim", trim},
    {"truncate", truncate_text},
    {"upper", upper},
    {"urlencode", url_encode},
    {"wordcount", word_count},
};

}  // namespace

Builtin find_text_filter(std::string_view name) { return find_builtin(kFilters, name); }

Builtin find_filter(std::string_view name) {
  const Builtin builtin = find_text_filter(name);
  return builtin != nullptr ? builtin : find_list_filter(name);
}

}  // namespace quern::jinja
