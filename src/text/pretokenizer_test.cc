#include "text/pretokenizer.h"

#include <gtest/gtest.h>

#include <ctime>
#include <numeric>
#include <set>

namespace quern {
namespace {

struct Case {
  const char* names;
  const char* words[18];  // for each of the texts
};
#include "text/pretokenizer_cases.inc"

static_assert(std::size(texts) == std::size(Case{}.words));

std::vector<uint32_t> lengths_of(std::string_view digits) {
  std::vector<uint32_t> lengths;
  uint32_t more = 0;
  for (const char c : digits) {
    if (c == 'z') {
      more += 35;
      continue;
    }
    lengths.push_back(more + static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10));
    more = 0;
  }
  return lengths;
}

std::vector<std::string> listed(std::string_view names) {
  std::vector<std::string> out;
  for (size_t at = 0; at < names.size();) {
    const size_t end = std::min(names.find(' ', at), names.size());
    out.emplace_back(names.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

PreTokenizer compiled(std::string_view name) {
  const PreTokenizerSpec* spec = find_pre_tokenizer(name);
  EXPECT_NE(spec, nullptr) << name;
  auto result = PreTokenizer::compile(spec != nullptr ? *spec : pre_tokenizers().front());
  EXPECT_TRUE(result) << result.error().message;
  return *std::move(result);
}

std::vector<uint32_t> split(const PreTokenizer& rules, std::string_view text) {
  std::vector<uint32_t> lengths;
  rules.split(text, lengths);
  return lengths;
}

TEST(PreTokenizer, CutsAsLlamaCppDoes) {
  std::set<std::string> tried;
  for (const Case& c : cases) {
    for (const std::string& name : listed(c.names)) {
      const PreTokenizer rules = compiled(name);
      for (size_t i = 0; i < std::size(texts); ++i) {
        EXPECT_EQ(split(rules, std::string_view(texts[i], text_sizes[i])), lengths_of(c.words[i]))
            << name << ", text " << i;
      }
      tried.insert(name);
    }
  }
  for (const PreTokenizerSpec& spec : pre_tokenizers()) {
    for (const std::string_view name : spec.names) EXPECT_TRUE(tried.contains(std::string(name))) << name;
  }
}

TEST(PreTokenizer, LosesNoByteOfIllFormedText) {
  const std::string samples[] = {"\xFF", "a\xE2\x82 b\xC3", "\xED\xA0\x80\xED\xB0\x80",
                                 "\x80\x80 1\xF0\x9F\x98x", std::string("\0 \0", 3)};
  for (const PreTokenizerSpec& spec : pre_tokenizers()) {
    const PreTokenizer rules = compiled(spec.names.front());
    for (const std::string& sample : samples) {
      const auto lengths = split(rules, sample);
      EXPECT_EQ(std::accumulate(lengths.begin(), lengths.end(), size_t{0}), sample.size())
          << spec.names.front();
      EXPECT_EQ(std::count(lengths.begin(), lengths.end(), 0u), 0);
    }
    EXPECT_TRUE(split(rules, "").empty());
  }
}

PreTokenizer of_model(const std::string& pattern) {
  auto result = PreTokenizer::compile({.names = {"test"}, .rules = {{.pattern = pattern}}, .on_text = true});
  EXPECT_TRUE(result) << result.error().message;
  return *std::move(result);
}

TEST(PreTokenizer, PatternsOfAModelTakeStepsInProportionToTheText) {
  // Each place alone takes less than a million steps, and none is like the one before.
  const std::string text(3000, 'a');
  for (const char* pattern : {"(?=(?:a|aa){1,18}c)a|a", "(?=(?:a|aa){1,18}c)b|a"}) {
    const auto lengths = split(of_model(pattern), text);
    EXPECT_EQ(std::accumulate(lengths.begin(), lengths.end(), size_t{0}), text.size());
    EXPECT_LT(lengths.size(), 100u) << pattern;
    EXPECT_GT(lengths.back(), text.size() - 100) << pattern;  // the rest is one word
  }
  // No match anywhere, but much work at each place.
  EXPECT_EQ(split(of_model("(?:a|aa){1,18}c"), text), std::vector<uint32_t>{3000});
}

TEST(PreTokenizer, PatternsOfAModelMayMeetLongRuns) {
  const PreTokenizer rules =
      of_model("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+|[^\\s\\p{N}]+|\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))");
  const uint32_t size = 100'000;
  EXPECT_EQ(split(rules, std::string(size, ' ') + "x"), (std::vector<uint32_t>{size - 1, 1, 1}));
  EXPECT_EQ(split(rules, std::string(size, 'x') + "\n "), (std::vector<uint32_t>{size, 1, 1}));
  EXPECT_EQ(split(rules, std::string(1000, '1')).size(), 334u);
  // Few matches, far apart.
  const PreTokenizer sparse = of_model("(?:a|aa){1,10}c");
  const std::string far = std::string(size, 'b') + "é" + std::string(40, 'a') + "c";
  EXPECT_EQ(split(sparse, far), (std::vector<uint32_t>{size + 2 + 20, 21}));
}

// Many of one kind of character is the worst that patterns can meet; a rule that costs the square of this
// takes over ten seconds.
TEST(PreTokenizer, TakesLinearTime) {
  const size_t size = 1 << 16;
  std::vector<std::string> samples;
  for (const char* unit :
       {"a", "A", " ", "\n", "1", "!", "'", "é", "\u0301", "中", "a ", " \n", "Aa", "1a", "\u3000"}) {
    std::string text;
    while (text.size() < size) text += unit;
    samples.push_back(text);
    if (text.find_first_of(" \n") == 0) samples.push_back(text + "x");
  }
  for (const PreTokenizerSpec& spec : pre_tokenizers()) {
    const PreTokenizer rules = compiled(spec.names.front());
    for (const std::string& sample : samples) {
      const clock_t start = clock();
      const auto lengths = split(rules, sample);
      const double seconds = static_cast<double>(clock() - start) / CLOCKS_PER_SEC;
      EXPECT_EQ(std::accumulate(lengths.begin(), lengths.end(), size_t{0}), sample.size());
      EXPECT_LT(seconds, 1.0) << spec.names.front() << " on " << sample.substr(0, 4);
    }
  }
}

}  // namespace
}  // namespace quern
