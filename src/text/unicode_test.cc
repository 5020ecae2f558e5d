#include "text/unicode.h"

#include <gtest/gtest.h>

#include "text/tokenizer.h"

namespace quern {
namespace {

TEST(Utf8, EncodesAndDecodesEveryCodePoint) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string bytes;
    append_utf8(bytes, c);
    const Utf8Step step = decode_utf8(bytes);
    ASSERT_TRUE(step.valid) << std::hex << uint32_t{c};
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.length, bytes.size());
  }
}

TEST(Utf8, StopsAtTheMaximalSubpart) {
  struct Case {
    std::string bytes;
    int length;
    bool truncated;
  };
  for (const Case& c : {
           Case{"\x80", 1, false},
           Case{"\xC0\xAF", 1, false},  // no sequence starts so
           Case{"\xE0\x80\xAF", 1, false},
           Case{"\xF0\x80\x80\xAF", 1, false},  // overlong
           Case{"\xED\xA0\x80", 1, false},      // a surrogate
           Case{"\xF4\x90\x80\x80", 1, false},
           Case{"\xF5\x80\x80\x80", 1, false},  // past U+10FFFF
           Case{"\xE2\x82", 2, true},
           Case{"\xE2\x82x", 2, false},
           Case{"\xF0\x9F\x98", 3, true},
           Case{"\xF0\x9F\x98 ", 3, false},
           Case{"\xC3", 1, true},
           Case{"\xFF", 1, false},
       }) {
    const Utf8Step step = decode_utf8(c.bytes);
    EXPECT_FALSE(step.valid);
    EXPECT_EQ(step.length, c.length) << c.bytes;
    EXPECT_EQ(step.truncated, c.truncated) << c.bytes;
    EXPECT_EQ(step.code_point, replacement_character);
  }
}

TEST(CharClass, KnowsWhatPatternsAskFor) {
  const auto expect = [](CharClass wanted, std::initializer_list<char32_t> all) {
    for (const char32_t c : all) EXPECT_EQ(char_class(c), wanted) << std::hex << uint32_t{c};
  };
  // White_Space, among it U+0085, which \s of PCRE2 and of C disagree about; not U+200B, U+180E, U+001C.
  expect(CharClass::space, {' ', '\t', '\v', 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x202F, 0x205F, 0x3000});
  expect(CharClass::other, {0x00, 0x1C, 0x7F, 0xAD, 0x180E, 0x200B, 0xFEFF, 0x378, 0xE000, 0x10FFFF});
  expect(CharClass::letter, {'a', 'Z', 0xAA, 0x1C5, 0x2B0, 0x416, 0x4E00, 0xAC00, 0x2EBF0, 0x2EE5D, 0x1E921});
  expect(CharClass::number, {'7', 0xB2, 0xBD, 0x663, 0x2167, 0x3007});
  expect(CharClass::punctuation, {'!', '_', '@', 0x2014, 0x3002, 0xFF01, 0x964});
  expect(CharClass::mark, {0x301, 0x93F, 0xFE0F, 0xE0101});
  expect(CharClass::symbol, {'$', '~', '^', '`', 0x20AC, 0x2122, 0x1F600, 0xFFFD, 0x2FFC, 0x31EF});
}

TEST(ByteAlphabet, IsGpt2s) {
  EXPECT_EQ(byte_to_char()[' '], "Ġ");
  EXPECT_EQ(byte_to_char()['\n'], "Ċ");
  EXPECT_EQ(byte_to_char()['!'], "!");
  EXPECT_EQ(byte_to_char()[0xAD], "Ń");
  EXPECT_EQ(byte_to_char()[0xFF], "ÿ");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(char_to_byte(decode_utf8(byte_to_char()[byte]).code_point), byte);
  }
  EXPECT_EQ(char_to_byte(0x144), -1);
  EXPECT_EQ(char_to_byte(' '), -1);
}

/// All at once, as the reference for streams.
std::string sanitized(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const Utf8Step step = decode_utf8(bytes);
    append_utf8(out, step.code_point);
    bytes.remove_prefix(step.length);
  }
  return out;
}

TEST(Utf8Stream, AnySplitGivesTheSameValidText) {
  const std::string samples[] = {"aé中😀z",
                                 "\xF0\x9F\x98",
                                 "\xF0\x9F\x98\xF0\x9F\x98\x80",
                                 "x\xE2\x82y\xC3\xA9\x80\xFF\xED\xA0\x80",
                                 std::string("\0\xC3", 2),
                                 "\xF4\x90\x80\x80\xC0\xAF",
                                 "\xE2\xE2\x82\xAC"};
  for (const std::string& sample : samples) {
    const std::string wanted = sanitized(sample);
    for (uint32_t cuts = 0; cuts < (1u << (sample.size() - 1)); ++cuts) {
      Utf8Stream stream;
      std::string out;
      size_t start = 0;
      for (size_t i = 1; i <= sample.size(); ++i) {
        if (i < sample.size() && (cuts >> (i - 1) & 1) == 0) continue;
        const std::string now = stream.push(std::string_view(sample).substr(start, i - start));
        ASSERT_EQ(now, sanitized(now));  // valid by itself
        out += now;
        start = i;
      }
      out += stream.finish();
      ASSERT_EQ(out, wanted) << "cuts " << cuts;
      ASSERT_FALSE(stream.pending());
    }
  }
}

TEST(Utf8Stream, HoldsBackOnlyWhatMayBecomeACharacter) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xF0\x9F"), "a");
  EXPECT_TRUE(stream.pending());
  EXPECT_EQ(stream.push("\x98\x80!"), "😀!");
  EXPECT_FALSE(stream.pending());
  EXPECT_EQ(stream.push("\xE2\x82"), "");
  EXPECT_EQ(stream.push("x"), "\uFFFDx");
  EXPECT_EQ(stream.push("\xC3"), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("\xED"), "");  // may become U+D7FF, not a surrogate
  EXPECT_EQ(stream.push("\xA0"), "\uFFFD\uFFFD");
}

}  // namespace
}  // namespace quern
