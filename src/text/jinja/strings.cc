#include "text/jinja/strings.h"

#include <utf8proc.h>

#include <charconv>
#include <cmath>
#include <cstring>

namespace quern::jinja {
namespace {

/// Maps every character; what is no UTF-8 is copied.
template <class Map>
std::string map_characters(std::string_view text, Map map) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Character c = character(text, i);
    if (c.code < 0) {
      out += text[i];
    } else {
      map(out, c.code);
    }
    i = c.next;
  }
  return out;
}

void add_upper(std::string& out, int32_t code) {
  if (code == 0xDF) {
    out += "SS";
  } else {
    add_character(out, static_cast<uint32_t>(utf8proc_toupper(code)));
  }
}

void add_title(std::string& out, int32_t code) {
  if (code == 0xDF) {
    out += "Ss";
  } else {
    add_character(out, static_cast<uint32_t>(utf8proc_totitle(code)));
  }
}

void add_lower(std::string& out, int32_t code) {
  add_character(out, static_cast<uint32_t>(utf8proc_tolower(code)));
}

bool has_case(int32_t code) {
  const utf8proc_category_t category = utf8proc_category(code);
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

bool is_letter(int32_t code) {
  const utf8proc_category_t category = utf8proc_category(code);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool is_digit(int32_t code) { return utf8proc_category(code) == UTF8PROC_CATEGORY_ND; }

template <class Kind>
bool all(std::string_view text, Kind kind) {
  for (size_t i = 0; i < text.size();) {
    const Character c = character(text, i);
    if (c.code < 0 || !kind(c.code)) return false;
    i = c.next;
  }
  return !text.empty();
}

bool in_set(std::string_view text, size_t begin, size_t end, std::optional<std::string_view> set) {
  if (!set) return is_space(character(text, begin).code);
  return find_text(*set, text.substr(begin, end - begin)) != std::string_view::npos;
}

}  // namespace

Character character(std::string_view text, size_t position) {
  utf8proc_int32_t code = -1;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position;
  const utf8proc_ssize_t size =
      utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - position), &code);
  if (size <= 0) return {-1, position + 1};
  return {code, position + static_cast<size_t>(size)};
}

void add_character(std::string& text, uint32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) code = 0xFFFD;
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

size_t count_characters(std::string_view text) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); ++count) i = character(text, i).next;
  return count;
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> result;
  for (size_t i = 0; i < text.size();) {
    const size_t next = character(text, i).next;
    result.push_back(text.substr(i, next - i));
    i = next;
  }
  return result;
}

bool is_space(int32_t code) {
  if (code < 0x80) return (code >= 9 && code <= 13) || (code >= 0x1C && code <= 0x20);
  return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

std::string_view strip_left(std::string_view text, std::optional<std::string_view> set) {
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t next = character(text, begin).next;
    if (!in_set(text, begin, next, set)) break;
    begin = next;
  }
  return text.substr(begin);
}

std::string_view strip_right(std::string_view text, std::optional<std::string_view> set) {
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && text.size() - begin < 4 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80)
      --begin;
    if (character(text, begin).next != text.size()) begin = text.size() - 1;
    if (!in_set(text, begin, text.size(), set)) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::string upper(std::string_view text) { return map_characters(text, add_upper); }
std::string lower(std::string_view text) { return map_characters(text, add_lower); }

std::string swap_case(std::string_view text) {
  return map_characters(text, [](std::string& out, int32_t code) {
    if (utf8proc_category(code) == UTF8PROC_CATEGORY_LU) {
      add_lower(out, code);
    } else {
      add_upper(out, code);
    }
  });
}

std::string capitalize(std::string_view text) {
  bool first = true;
  return map_characters(text, [&](std::string& out, int32_t code) {
    if (first) {
      add_title(out, code);
    } else {
      add_lower(out, code);
    }
    first = false;
  });
}

std::string title(std::string_view text) {
  bool inside = false;
  return map_characters(text, [&](std::string& out, int32_t code) {
    if (inside) {
      add_lower(out, code);
    } else {
      add_title(out, code);
    }
    inside = has_case(code);
  });
}

bool all_letters(std::string_view text) { return all(text, is_letter); }
bool all_digits(std::string_view text) { return all(text, is_digit); }
bool all_letters_or_digits(std::string_view text) {
  return all(text, [](int32_t code) {
    const utf8proc_category_t category = utf8proc_category(code);
    return is_letter(code) || category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
  });
}
bool all_space(std::string_view text) { return all(text, is_space); }

bool is_upper(std::string_view text) {
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    const Character c = character(text, i);
    if (c.code >= 0 && has_case(c.code)) {
      if (utf8proc_category(c.code) != UTF8PROC_CATEGORY_LU) return false;
      cased = true;
    }
    i = c.next;
  }
  return cased;
}

bool is_lower(std::string_view text) {
  bool cased = false;
  for (size_t i = 0; i < text.size();) {
    const Character c = character(text, i);
    if (c.code >= 0 && has_case(c.code)) {
      if (utf8proc_category(c.code) != UTF8PROC_CATEGORY_LL) return false;
      cased = true;
    }
    i = c.next;
  }
  return cased;
}

size_t find_text(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // memmem is linear; std::string_view::find is not.
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  if (value == 0) return std::signbit(value) ? "-0.0" : "0.0";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));  // "-1.2345e+10"
  const size_t mark = text.find('e');
  int exponent = 0;
  const char* digits_of_exponent = text.data() + mark + (text[mark + 1] == '+' ? 2 : 1);
  std::from_chars(digits_of_exponent, end, exponent);
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const auto fixed_end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  std::string fixed(buffer, fixed_end);
  if (fixed.find('.') == std::string::npos) fixed += ".0";
  return fixed;
}

}  // namespace quern::jinja
