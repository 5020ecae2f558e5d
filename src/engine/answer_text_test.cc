#include "engine/answer_text.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace quern {
namespace {

struct Answered {
  std::string text;
  std::vector<TokenInfo> tokens;
  std::string stop;
  int32_t count = 0;
};

/// Pushes `pieces` until a stop string ends the answer, checking what each Delta promises.
Answered run(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  AnswerText answer(stops, true);
  Answered result;
  const auto take = [&] {
    const auto delta = answer.take();
    if (!delta) return;
    Utf8Stream whole;
    EXPECT_EQ(whole.push(delta->text), delta->text) << "a character was split";
    result.text += delta->text;
    result.count += delta->count;
    for (const TokenInfo& token : delta->tokens) result.tokens.push_back(token);
  };
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool done = answer.push({.token = static_cast<int32_t>(i), .bytes = pieces[i]});
    if (done) break;
    take();
  }
  answer.finish();
  take();
  if (answer.stop() != nullptr) result.stop = *answer.stop();
  return result;
}

std::string joined(const std::vector<TokenInfo>& tokens) {
  std::string bytes;
  for (const TokenInfo& token : tokens) bytes += token.bytes;
  return bytes;
}

TEST(AnswerText, PassesTextThroughAtOnce) {
  AnswerText answer({}, false);
  EXPECT_FALSE(answer.push({.token = 1, .bytes = " Hello"}));
  const auto delta = answer.take();
  ASSERT_TRUE(delta);
  EXPECT_EQ(delta->text, " Hello") << "the leading space of a continuation stays";
  EXPECT_EQ(delta->count, 1);
  EXPECT_TRUE(delta->tokens.empty());
  EXPECT_FALSE(answer.take());
}

TEST(AnswerText, HoldsBackWhatMayBecomeAStopString) {
  AnswerText answer({"STOP"}, false);
  EXPECT_FALSE(answer.push({.bytes = "abST"}));
  EXPECT_EQ(answer.take()->text, "ab");
  EXPECT_FALSE(answer.push({.bytes = "O"}));
  EXPECT_FALSE(answer.take());
  EXPECT_FALSE(answer.push({.bytes = "x"}));
  const auto delta = answer.take();
  EXPECT_EQ(delta->text, "STOx");
  EXPECT_EQ(delta->count, 2);
  EXPECT_TRUE(answer.push({.bytes = "STOPmore"}));
  answer.finish();
  EXPECT_FALSE(answer.take());
  EXPECT_EQ(*answer.stop(), "STOP");
}

TEST(AnswerText, AnUnfinishedStopStringIsText) {
  const Answered result = run({"abc", "ST"}, {"STOP"});
  EXPECT_EQ(result.text, "abcST");
  EXPECT_EQ(result.stop, "");
  EXPECT_EQ(result.count, 2);
}

TEST(AnswerText, TheLeftmostMatchWinsAndOfTwoTheShorter) {
  EXPECT_EQ(run({"xabcd"}, {"bc", "abcd"}).text, "x");
  EXPECT_EQ(run({"x", "a", "b", "c", "d"}, {"bc", "abcd"}).text, "x");
  EXPECT_EQ(run({"x", "a", "b", "c", "e", "f"}, {"bc", "abcd"}).text, "xa");
  EXPECT_EQ(run({"x", "a", "b", "c"}, {"bc", "abcd"}).text, "xa") << "the text ends while the longer is open";
  EXPECT_EQ(run({"xabab"}, {"abab", "ab"}).stop, "ab");
  EXPECT_EQ(run({"xaab"}, {"", "ab"}).text, "xa") << "an empty stop string stops nothing";
}

TEST(AnswerText, TokensComeWithTheirText) {
  const Answered split = run({"a\xe2", "\x82", "\xac", "b"}, {});
  EXPECT_EQ(split.text,
            "a\xe2\x82\xac"
            "b");
  EXPECT_EQ(split.tokens.size(), 4u);
  AnswerText answer({}, true);
  answer.push({.token = 1, .bytes = "a\xe2"});
  auto delta = answer.take();
  EXPECT_EQ(delta->text, "a");
  EXPECT_TRUE(delta->tokens.empty()) << "its character is not whole yet";
  answer.push({.token = 2, .bytes = "\x82"});
  EXPECT_FALSE(answer.take());
  answer.push({.token = 3, .bytes = "\xac z\xf0"});
  delta = answer.take();
  EXPECT_EQ(delta->text, "\xe2\x82\xac z");
  EXPECT_EQ(delta->tokens.size(), 2u);
  EXPECT_EQ(delta->count, 2);
  answer.finish();
  delta = answer.take();
  EXPECT_EQ(delta->text, "\xef\xbf\xbd");
  EXPECT_EQ(delta->tokens.size(), 1u);

  const Answered cut = run({"one", "twoST", "OPthree"}, {"STOP"});
  EXPECT_EQ(cut.text, "onetwo");
  ASSERT_EQ(cut.tokens.size(), 2u) << "the token that is cut is the last";
  EXPECT_EQ(cut.tokens[1].bytes, "twoST");
  EXPECT_EQ(run({"one", "STO", "P"}, {"STOP"}).tokens.size(), 1u);
}

// Random texts of few letters, cut into random tokens, against searching the whole text.
TEST(AnswerText, AgreesWithSearchingTheWholeText) {
  std::mt19937 random(11);
  const auto below = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  const std::vector<std::string> letters{"a", "b", "ab", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
  int matched = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string whole;
    for (size_t i = below(30); i-- > 0;) whole += letters[below(letters.size())];
    std::vector<std::string> stops(below(4));
    for (std::string& stop : stops)
      for (size_t i = 1 + below(5); i-- > 0;) stop += letters[below(letters.size())];
    std::vector<std::string> pieces;
    for (size_t at = 0; at < whole.size();) {  // anywhere, also inside characters
      pieces.push_back(whole.substr(at, below(6)));
      at += pieces.back().size();
    }
    size_t cut = std::string::npos;
    for (const std::string& stop : stops) cut = std::min(cut, whole.find(stop));
    const Answered result = run(pieces, stops);
    ASSERT_EQ(result.text, whole.substr(0, cut)) << "round " << round;
    ASSERT_EQ(!result.stop.empty(), cut != std::string::npos);
    if (cut == std::string::npos) {
      ASSERT_EQ(joined(result.tokens), whole);
    } else {
      ++matched;
      ASSERT_EQ(whole.compare(cut, result.stop.size(), result.stop), 0);
      ASSERT_TRUE(joined(result.tokens).starts_with(result.text)) << "every character belongs to a token";
      if (!result.tokens.empty()) {
        const std::string before = joined({result.tokens.begin(), result.tokens.end() - 1});
        ASSERT_LE(before.size(), result.text.size()) << "no token beyond the one that is cut";
      }
    }
  }
  EXPECT_GT(matched, 3000);
}

TEST(AnswerText, RandomBytesBecomeWholeCharacters) {
  std::mt19937 random(12);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> pieces(1 + random() % 8);
    std::string whole;
    for (std::string& piece : pieces)
      for (size_t i = random() % 5; i-- > 0;) piece += static_cast<char>(random());
    for (const std::string& piece : pieces) whole += piece;
    Utf8Stream stream;
    std::string expected = stream.push(whole);
    expected += stream.finish();
    const Answered result = run(pieces, {"never"});
    ASSERT_EQ(result.text, expected);
    ASSERT_EQ(result.tokens.size(), pieces.size());
  }
}

}  // namespace
}  // namespace quern
