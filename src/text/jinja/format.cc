#include "text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "text/jinja/builtins.h"
#include "text/jinja/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/strings.h"

namespace quern::jinja {
namespace {

constexpr size_t kMaxWidth = 10000;
constexpr int kMaxPrecision = 100;

/// [[fill]align][sign][#][0][width][,][.precision][type]
struct Spec {
  std::string_view fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';
  bool alternate = false;
  bool comma = false;
  size_t width = 0;
  int precision = -1;
  char type = '\0';
};

size_t read_number(std::string_view text, size_t& i, size_t limit, const char* what) {
  size_t value = 0;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
    value = value * 10 + static_cast<size_t>(text[i] - '0');
    if (value > limit) raise("format: {} is larger than {}", what, limit);
  }
  return value;
}

Spec parse_spec(std::string_view text) {
  Spec spec;
  size_t i = 0;
  const auto aligns = [&](size_t at) {
    return at < text.size() && std::string_view("<>^=").find(text[at]) != std::string_view::npos;
  };
  const size_t second = text.empty() ? 0 : character(text, 0).next;
  if (!text.empty() && aligns(second)) {
    spec.fill = text.substr(0, second);
    spec.align = text[second];
    i = second + 1;
  } else if (aligns(0)) {
    spec.align = text[i++];
  }
  const auto take = [&](std::string_view set) {
    return i < text.size() && set.find(text[i]) != std::string_view::npos ? text[i++] : '\0';
  };
  if (const char sign = take("+- ")) spec.sign = sign;
  spec.alternate = take("#") != '\0';
  if (take("0") != '\0') {
    if (spec.align == '\0') spec.align = '=';
    spec.fill = "0";
  }
  spec.width = read_number(text, i, kMaxWidth, "the width");
  spec.comma = take(",") != '\0';
  if (take(".") != '\0')
    spec.precision = static_cast<int>(read_number(text, i, kMaxPrecision, "the precision"));
  spec.type = take("sdifFeEgGxXobcrn%");
  if (i != text.size()) raise("format: '{}' is not understood", text);
  return spec;
}

void add_commas(std::string& digits) {
  const size_t point = std::min(digits.find_first_of(".e"), digits.size());
  for (size_t i = point; i > 3; i -= 3) digits.insert(i - 3, 1, ',');
}

/// Digits of |value| in the base that `type` names.
std::string integer_digits(uint64_t value, const Spec& spec) {
  const int base = spec.type == 'x' || spec.type == 'X' ? 16
                   : spec.type == 'o'                   ? 8
                   : spec.type == 'b'                   ? 2
                                                        : 10;
  char buffer[80];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, base).ptr;
  std::string digits(buffer, end);
  if (spec.alternate && base != 10) digits.insert(0, base == 16 ? "0x" : base == 8 ? "0o" : "0b");
  if (spec.type == 'X') std::transform(digits.begin(), digits.end(), digits.begin(), ::toupper);
  return digits;
}

std::string real_digits(double value, const Spec& spec) {
  if (spec.type == '\0' && spec.precision < 0) return float_text(value);
  char type = spec.type == '\0' || spec.type == 'n' ? 'g' : spec.type;
  if (type == '%') {
    value *= 100;
    type = 'f';
  }
  const char pattern[] = {'%', '.', '*', type, '\0'};
  char buffer[512];  // 309 digits before the point and kMaxPrecision after it
  const int size =
      std::snprintf(buffer, sizeof buffer, pattern, spec.precision < 0 ? 6 : spec.precision, value);
  std::string digits(buffer, static_cast<size_t>(std::max(size, 0)));
  if (spec.type == '%') digits += '%';
  return digits;
}

std::string pad(std::string_view sign, std::string_view body, const Spec& spec, char align) {
  const size_t size = count_characters(sign) + count_characters(body);
  const size_t missing = spec.width > size ? spec.width - size : 0;
  if (spec.align != '\0') align = spec.align;
  const size_t before = align == '>' || align == '=' ? missing : align == '^' ? missing / 2 : 0;
  std::string out;
  const auto fill = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) out += spec.fill;
  };
  if (align == '=') out += sign;
  fill(before);
  if (align != '=') out += sign;
  out += body;
  fill(missing - before);
  return out;
}

std::string format_number(const Value& value, const Spec& spec) {
  const auto integer = as_integer(value);
  const bool real = !integer || std::string_view("fFeEgG%").find(spec.type) != std::string_view::npos;
  const bool as_real = real && !(integer && spec.type == '\0');
  const double number = as_number(value).value_or(0);
  const bool negative = as_real ? std::signbit(number) : *integer < 0;
  std::string digits;
  if (as_real) {
    digits = real_digits(std::fabs(number), spec);
  } else {
    const auto bits = static_cast<uint64_t>(*integer);
    digits = integer_digits(negative ? 0 - bits : bits, spec);
  }
  if (spec.comma) add_commas(digits);
  const std::string_view sign = negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  return pad(sign, digits, spec, '>');
}

std::string format_text(std::string_view text, const Spec& spec) {
  if (spec.precision >= 0) {
    size_t end = 0;
    for (int i = 0; i < spec.precision && end < text.size(); ++i) end = character(text, end).next;
    text = text.substr(0, end);
  }
  return pad("", text, spec, '<');
}

std::string format_value(Heap& heap, const Value& value, const Spec& spec) {
  const bool number = as_number(value).has_value() && as<bool>(value) == nullptr;
  if (number && spec.type != 's' && spec.type != 'r') return format_number(value, spec);
  if (spec.type != '\0' && spec.type != 's' && spec.type != 'r') {
    if (as_number(value)) return format_number(value, spec);
    raise("format: '{}' needs a number, not '{}'", spec.type, type_name(value));
  }
  return format_text(to_string(heap, value), spec);
}

std::string_view representation(Heap& heap, const Value& value) {
  Text out(heap);
  add_repr(heap, out, value);
  return std::get<std::string_view>(out.value());
}

// --- % ---

class PercentFormatter {
 public:
  PercentFormatter(Heap& heap, std::string_view format, const Value& values)
      : heap_(heap), format_(format), out_(heap) {
    const auto* list = as<List*>(values);
    if (const auto* dict = as<Dict*>(values)) dict_ = *dict;
    if (list != nullptr && (*list)->kind != List::Kind::list) {
      values_ = (*list)->items;
    } else {
      values_ = {values};
    }
  }

  std::string run() {
    for (size_t i = 0; i < format_.size();) {
      const size_t mark = std::min(format_.find('%', i), format_.size());
      out_.add(format_.substr(i, mark - i));
      i = mark == format_.size() ? mark : directive(mark + 1);
    }
    if (dict_ == nullptr && next_ < values_.size()) raise("format: not all arguments are used by the text");
    return out_.take();
  }

 private:
  const Value& next_value() {
    if (next_ >= values_.size()) raise("format: too few arguments for the text");
    return values_[next_++];
  }

  /// The one that starts after its '%' at `i`; returns where it ends.
  size_t directive(size_t i) {
    const Value* named = nullptr;
    if (i < format_.size() && format_[i] == '(') {
      const size_t close = format_.find(')', i);
      if (close == std::string_view::npos || dict_ == nullptr) raise("format: '%(' needs a name and a dict");
      const std::string_view name = format_.substr(i + 1, close - i - 1);
      named = find(heap_, *dict_, name);
      if (named == nullptr) raise("format: there is no value '{}'", name);
      i = close + 1;
    }
    Spec spec;
    i = flags(i, spec);
    if (i >= format_.size()) raise("format: the text ends inside of a '%' directive");
    spec.type = format_[i];
    if (spec.type == '%') {
      out_.add('%');
      return i + 1;
    }
    add(named != nullptr ? *named : next_value(), spec);
    return i + 1;
  }

  size_t flags(size_t i, Spec& spec) {
    spec.align = '>';
    for (; i < format_.size(); ++i) {
      const char c = format_[i];
      if (c == '-') {
        spec.align = '<';
      } else if (c == '0') {
        spec.fill = "0";
      } else if (c == '+' || c == ' ') {
        spec.sign = c;
      } else if (c == '#') {
        spec.alternate = true;
      } else {
        break;
      }
    }
    if (spec.align == '<') spec.fill = " ";
    if (spec.fill == "0") spec.align = '=';
    spec.width = read_number(format_, i, kMaxWidth, "the width");
    if (i < format_.size() && format_[i] == '.') {
      ++i;
      spec.precision = static_cast<int>(read_number(format_, i, kMaxPrecision, "the precision"));
    }
    return i;
  }

  void add(const Value& value, Spec spec) {
    if (spec.type == 's' || spec.type == 'r') {
      spec.fill = " ";
      if (spec.align == '=') spec.align = '>';
      out_.add(format_text(spec.type == 's' ? to_string(heap_, value) : representation(heap_, value), spec));
      return;
    }
    if (std::string_view("diuxXofFeEgG").find(spec.type) == std::string_view::npos) {
      raise("format: '%{}' is not supported", spec.type);
    }
    if (!as_number(value)) raise("format: '%{}' needs a number, not '{}'", spec.type, type_name(value));
    const bool decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (const auto* real = as<double>(value);
        real != nullptr && std::string_view("diuxXo").find(spec.type) != std::string_view::npos) {
      if (!std::isfinite(*real) || std::fabs(*real) >= 9.2e18)
        raise("format: {} is no 64-bit integer", *real);
      spec.type = decimal ? 'd' : spec.type;
      out_.add(format_number(static_cast<int64_t>(*real), spec));
      return;
    }
    if (decimal) spec.type = 'd';
    out_.add(format_number(value, spec));
  }

  Heap& heap_;
  std::string_view format_;
  Text out_;
  std::vector<Value> values_;
  const Dict* dict_ = nullptr;
  size_t next_ = 0;
};

// --- {} ---

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& interpreter, std::string_view format, Arguments& arguments)
      : in_(interpreter),
        format_(format),
        values_(arguments.rest()),
        named_(arguments.rest_named()),
        out_(interpreter.heap()) {}

  std::string run() {
    for (size_t i = 0; i < format_.size();) {
      const char c = format_[i];
      if ((c == '{' || c == '}') && i + 1 < format_.size() && format_[i + 1] == c) {
        out_.add(c);
        i += 2;
      } else if (c == '{') {
        i = field(i + 1);
      } else if (c == '}') {
        raise("format: a single '}}' in the text");
      } else {
        const size_t end = std::min(format_.find_first_of("{}", i), format_.size());
        out_.add(format_.substr(i, end - i));
        i = end;
      }
    }
    return out_.take();
  }

 private:
  size_t field(size_t begin) {
    const size_t end = format_.find('}', begin);
    if (end == std::string_view::npos) raise("format: expected '}}' to end a field");
    std::string_view name = format_.substr(begin, end - begin);
    std::string_view spec;
    if (const size_t colon = name.find(':'); colon != std::string_view::npos) {
      spec = name.substr(colon + 1);
      name = name.substr(0, colon);
    }
    char conversion = '\0';
    if (name.size() >= 2 && name[name.size() - 2] == '!') {
      conversion = name.back();
      name.remove_suffix(2);
    }
    Value value = look_up(name);
    if (const auto* undefined = as<Undefined>(value)) raise_undefined(*undefined);
    if (conversion == 'r') value = representation(in_.heap(), value);
    if (conversion == 's') value = to_string(in_.heap(), value);
    out_.add(format_value(in_.heap(), value, parse_spec(spec)));
    return end + 1;
  }

  Value look_up(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = root(name.substr(0, end));
    for (size_t i = end; i < name.size();) {
      if (name[i] == '.') {
        const size_t next = std::min(name.find_first_of(".[", i + 1), name.size());
        value = in_.attribute(value, name.substr(i + 1, next - i - 1));
        i = next;
        continue;
      }
      const size_t close = name.find(']', i);
      if (name[i] != '[' || close == std::string_view::npos)
        raise("format: the field '{}' is not understood", name);
      value = in_.item(value, index(name.substr(i + 1, close - i - 1)));
      i = close + 1;
    }
    return value;
  }

  static Value index(std::string_view text) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc{} && end == text.data() + text.size()) return number;
    return text;
  }

  Value root(std::string_view name) {
    const Value key = name.empty() ? Value(static_cast<int64_t>(next_++)) : index(name);
    if (const auto* number = as<int64_t>(key)) {
      if (*number < 0 || static_cast<size_t>(*number) >= values_.size())
        raise("format: there is no value {}", *number);
      return values_[static_cast<size_t>(*number)];
    }
    for (const auto& [other, value] : named_) {
      if (other == name) return value;
    }
    raise("format: there is no value '{}'", name);
  }

  Interpreter& in_;
  std::string_view format_;
  std::vector<Value> values_;
  std::vector<std::pair<std::string_view, Value>> named_;
  Text out_;
  size_t next_ = 0;
};

}  // namespace

std::string percent_format(Heap& heap, std::string_view format, const Value& values) {
  return PercentFormatter(heap, format, values).run();
}

std::string brace_format(Interpreter& interpreter, std::string_view format, Arguments& arguments) {
  return BraceFormatter(interpreter, format, arguments).run();
}

}  // namespace quern::jinja
