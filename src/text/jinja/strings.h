// Python's string operations on UTF-8. Positions and lengths count characters; a byte that is not UTF-8
// counts as one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quern::jinja {

/// The character that starts at `position`, and where the next one starts.
struct Character {
  int32_t code;  // −1: not UTF-8
  size_t next;
};
Character character(std::string_view text, size_t position);
void add_character(std::string& text, uint32_t code);

size_t count_characters(std::string_view text);
std::vector<std::string_view> characters(std::string_view text);
/// str.isspace() for one character.
bool is_space(int32_t code);

/// str.strip: white space, or any of the characters in `set`.
std::string_view strip_left(std::string_view text, std::optional<std::string_view> set = {});
std::string_view strip_right(std::string_view text, std::optional<std::string_view> set = {});
inline std::string_view strip(std::string_view text, std::optional<std::string_view> set = {}) {
  return strip_right(strip_left(text, set), set);
}

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string swap_case(std::string_view text);
/// First character upper, the rest lower.
std::string capitalize(std::string_view text);
/// str.title(): every run of letters capitalized.
std::string title(std::string_view text);

/// True when there are characters and all of them are of the kind.
bool all_letters(std::string_view text);
bool all_digits(std::string_view text);
bool all_letters_or_digits(std::string_view text);
bool all_space(std::string_view text);
/// True when there are letters with case and none of the other case.
bool is_upper(std::string_view text);
bool is_lower(std::string_view text);

/// Position in bytes from `from` on, or npos. Linear in the two lengths together.
size_t find_text(std::string_view text, std::string_view needle, size_t from = 0);

/// Python's repr of a float: the shortest digits that read back, an exponent below 1e-4 and from 1e16 on.
std::string float_text(double value);

}  // namespace quern::jinja
