// UTF-8, the character classes that pre-tokenizer patterns speak of, and GPT-2's alphabet for bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quern {

inline constexpr char32_t replacement_character = 0xFFFD;

/// One step of decoding: a character, or a maximal subpart of an ill-formed sequence (Unicode 3.9, table
/// 3-8), which counts as one U+FFFD.
struct Utf8Step {
  char32_t code_point = replacement_character;
  uint8_t length = 0;  // bytes consumed, ≥ 1
  bool valid = false;
  bool truncated = false;  // ill-formed only because the text ends: more bytes could complete it
};

/// `text` must not be empty.
Utf8Step decode_utf8(std::string_view text);
void append_utf8(std::string& out, char32_t code_point);

/// What a pattern can tell apart: \s, \p{N}, \p{L}, \p{P}, \p{M}, \p{S}; the rest is `other`.
enum class CharClass : uint8_t { other, space, number, letter, punctuation, mark, symbol };
CharClass char_class(char32_t code_point);

/// GPT-2's byte ↔ character map: printable Latin-1 stands for itself, the other 68 bytes are U+0100 … U+0143,
/// so that any bytes are visible text ("Ġ" is a space).
const std::array<std::string, 256>& byte_to_char();
/// −1: the character stands for no byte.
int char_to_byte(char32_t code_point);

}  // namespace quern
