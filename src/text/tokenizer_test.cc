#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <random>
#include <set>

#include "core/test_data.h"
#include "text/tokenizer_test_data.h"
#include "text/unicode.h"

namespace quern {
namespace {

using Ids = std::vector<int32_t>;
using test::with;

constexpr EncodeOptions plain{.add_special = false, .parse_special = false};
constexpr EncodeOptions parsed{.add_special = false, .parse_special = true};

std::unique_ptr<Tokenizer> load(const Metadata& metadata, std::vector<std::string>* warnings = nullptr) {
  auto tokenizer = Tokenizer::from_metadata(metadata, warnings);
  EXPECT_TRUE(tokenizer) << tokenizer.error().message;
  return tokenizer ? *std::move(tokenizer) : nullptr;
}

std::string error_of(const Metadata& metadata) {
  const auto tokenizer = Tokenizer::from_metadata(metadata);
  return tokenizer ? "no error" : tokenizer.error().message;
}

struct Entry {
  std::string text;
  int type = 1;
  double score = 0;
};
enum : int { unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

Metadata vocabulary(const std::string& model, const std::vector<Entry>& entries) {
  std::vector<std::string> tokens;
  std::vector<int64_t> types;
  std::vector<double> scores;
  for (const Entry& entry : entries) {
    tokens.push_back(entry.text), types.push_back(entry.type), scores.push_back(entry.score);
  }
  Metadata metadata;
  metadata.add("tokenizer.ggml.model", model);
  metadata.add("tokenizer.ggml.tokens", Metadata::Array{tokens});
  metadata.add("tokenizer.ggml.token_type", Metadata::Array{types});
  if (model == "llama") metadata.add("tokenizer.ggml.scores", Metadata::Array{scores});
  return metadata;
}

/// <unk> <s> </s>, 256 bytes, then `entries` from id 259 on.
constexpr int32_t first = 259;
Metadata spm(const std::vector<Entry>& entries) {
  std::vector<Entry> all = {{"<unk>", unknown}, {"<s>", control}, {"</s>", control}};
  for (int i = 0; i < 256; ++i) all.push_back({fmt::format("<0x{:02X}>", i), byte});
  all.insert(all.end(), entries.begin(), entries.end());
  return vocabulary("llama", all);
}

/// 256 bytes in GPT-2's alphabet, then `entries` from id 256 on.
Metadata bpe(const std::vector<Entry>& entries, const std::vector<std::string>& merges,
             const std::string& pre = "gpt-2") {
  std::vector<Entry> all;
  for (const std::string& c : byte_to_char()) all.push_back({c});
  all.insert(all.end(), entries.begin(), entries.end());
  Metadata metadata = vocabulary("gpt2", all);
  metadata.add("tokenizer.ggml.merges", Metadata::Array{merges});
  metadata.add("tokenizer.ggml.pre", pre);
  return metadata;
}

// --- real vocabularies
// ---------------------------------------------------------------------------------------

class Fixture : public testing::TestWithParam<const char*> {};

std::vector<std::string> split_cases(const std::string& text) {
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::vector<std::string> cases;
  for (size_t at = 0;;) {
    const size_t end = text.find(separator, at);
    if (end == std::string::npos) return cases;  // a separator stands after the last, too
    cases.push_back(text.substr(at, end - at));
    at = end + separator.size();
  }
}

std::vector<Ids> read_ids(const std::string& text) {
  std::vector<Ids> all;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    Ids ids;
    for (int32_t id; numbers >> id;) ids.push_back(id);
    all.push_back(ids);
  }
  return all;
}

TEST_P(Fixture, EncodesAllCasesAndDecodesThemAgain) {
  const auto folder = test_data();
  if (!folder) GTEST_SKIP() << "no public test data: set QUERN_TEST_DATA";
  const auto tokenizer =
      load(test::read_gguf_metadata(*folder / "vocab" / (std::string(GetParam()) + ".gguf")));
  const auto texts = split_cases(test::read_all(*folder / "vocab/cases.txt"));
  const auto wanted = read_ids(test::read_all(*folder / "vocab" / (std::string(GetParam()) + ".ids")));
  ASSERT_EQ(texts.size(), 46u);
  ASSERT_EQ(wanted.size(), 46u);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer->encode(texts[i], plain), wanted[i]) << "case " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer->decode(wanted[i]), texts[i]) << "case " << i;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(texts[i], {true, false})), texts[i]) << "case " << i;
  }
}

TEST_P(Fixture, KeepsAnyBytes) {
  const auto folder = test_data();
  if (!folder) GTEST_SKIP() << "no public test data: set QUERN_TEST_DATA";
  const auto tokenizer =
      load(test::read_gguf_metadata(*folder / "vocab" / (std::string(GetParam()) + ".gguf")));
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::string bytes(random() % 40, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 3 != 0 ? random() % 256 : " aé"[random() % 4]);
    // SentencePiece spells a space "▁", so that one does not come back as it was.
    if (bytes.find("▁") != std::string::npos) continue;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes, plain)), bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, Fixture, testing::Values("gpt-2", "llama-spm", "phi-3"));

// --- SentencePiece-style
// -------------------------------------------------------------------------------------

TEST(Spm, JoinsTheBestScoreFirstAndOfEqualsTheLeftmost) {
  const auto t = load(with(spm({{"a"}, {"b"}, {"c"}, {"ab", 1, -2}, {"bc", 1, -1}, {"aa", 1, -3}}),
                           "tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(t->encode("abc", plain), (Ids{first, first + 4}));
  EXPECT_EQ(t->encode("aab", plain), (Ids{first, first + 3}));
  EXPECT_EQ(t->encode("aaa", plain), (Ids{first + 5, first}));
  // The same by the heap that long words take.
  std::string text;
  Ids wanted;
  for (int i = 0; i < 100; ++i) {
    text += "abc";
    wanted.insert(wanted.end(), {first, first + 4});
  }
  EXPECT_EQ(t->encode(text, plain), wanted);
}

TEST(Spm, UnknownCharactersBecomeBytes) {
  const auto t = load(spm({{"▁"}, {"a"}}));
  EXPECT_EQ(t->encode("é", plain), (Ids{first, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(t->encode("a\xFFz", plain), (Ids{first, first + 1, 3 + 0xFF, 3 + 'z'}));
  EXPECT_EQ(t->decode(Ids{3 + 0xC3, 3 + 0xA9}), "é");
  EXPECT_EQ(t->piece(3 + 0xC3), "\xC3");
}

TEST(Spm, WithoutByteTokensTheUnknownTokenStandsIn) {
  const auto t =
      load(vocabulary("llama", {{"<unk>", unknown}, {"<s>", control}, {"</s>", control}, {"▁"}, {"a"}}));
  EXPECT_EQ(t->encode("aé", plain), (Ids{3, 4, 0, 0}));
}

TEST(Spm, PutsASpaceAtTheStartAndAfterSpecialTokens) {
  const std::vector<Entry> entries = {{"▁"}, {"a"}, {"▁a", 1, -1}, {"<x>", control}, {"<y>", user_defined}};
  const int32_t space = first, a = first + 1, word = first + 2, x = first + 3, y = first + 4;
  const auto t = load(spm(entries));
  EXPECT_TRUE(t->add_bos());
  EXPECT_FALSE(t->add_eos());
  EXPECT_EQ(t->encode(""), (Ids{1}));
  EXPECT_EQ(t->encode("", plain), Ids{});
  EXPECT_EQ(t->encode("a"), (Ids{1, word}));
  EXPECT_EQ(t->encode(" a"), (Ids{1, space, word}));
  EXPECT_EQ(t->encode("a<x>a a", parsed), (Ids{word, x, word, word}));
  EXPECT_EQ(t->encode("a<y>a", plain), (Ids{word, y, word}));
  EXPECT_EQ(t->encode("<x>", parsed), (Ids{x}));
  const auto bare = load(with(spm(entries), "tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(bare->encode("a<x>a a", parsed), (Ids{a, x, a, word}));
}

TEST(Spm, DropsTheAddedSpaceOnceWhenDecoding) {
  const std::vector<Entry> entries = {{"▁a"}, {"b"}, {"▁"}, {"<x>", control}};
  const int32_t a = first, b = first + 1, space = first + 2, x = first + 3;
  const auto t = load(spm(entries));
  EXPECT_EQ(t->decode(Ids{a, a}), "a a");
  EXPECT_EQ(t->decode(Ids{1, a, a, 2}), "a a");
  EXPECT_EQ(t->decode(Ids{1, a, 2}, true), "<s>a</s>");
  EXPECT_EQ(t->decode(Ids{x, a}), "a");
  EXPECT_EQ(t->decode(Ids{b, a}), "b a");
  EXPECT_EQ(t->decode(Ids{space, a}), " a");
  EXPECT_EQ(t->piece(a), " a");
  EXPECT_EQ(t->raw(a), "▁a");
  EXPECT_EQ(t->decode(Ids{-1, 99999, a}), "a");
  EXPECT_EQ(t->piece(-1), "");
  EXPECT_EQ(t->raw(99999), "");
  const auto bare = load(with(spm(entries), "tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(bare->decode(Ids{a, a}), " a a");
}

TEST(Spm, TokensAcrossWordsAreFound) {
  // "a▁b" makes words depend on each other.
  const std::vector<Entry> entries = {{"▁"}, {"a"}, {"b"}, {"a▁", 1, -1}, {"a▁b", 1, 0}, {"▁a", 1, -2}};
  const auto t = load(spm(entries));
  EXPECT_EQ(t->encode("a b", plain), (Ids{first, first + 4}));
  const std::vector<Entry> apart = {{"▁"}, {"a"}, {"b"}, {"▁a", 1, -1}, {"▁▁", 1, 0}, {"▁▁a", 1, 0}};
  EXPECT_EQ(load(spm(apart))->encode("a  a b", plain), (Ids{first + 3, first + 5, first, first + 2}));
}

TEST(Spm, PlainTextNeverBecomesAControlToken) {
  const auto t = load(spm({{"▁"}, {"<"}, {"s"}, {">"}, {"<s"}, {"s>"}}));
  const Ids ids = t->encode("<s>", plain);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 1), 0);
  EXPECT_EQ(t->encode("<s>", parsed), (Ids{1}));
  EXPECT_EQ(t->decode(ids), "<s>");
}

// --- special tokens
// ------------------------------------------------------------------------------------------

TEST(Special, LongestFirstControlOnlyOnRequest) {
  const auto t = load(bpe({{"<|a|>", control},       // 256
                           {"<|a|><|b|>", control},  // 257
                           {"[x]", user_defined},    // 258
                           {"<unk>", unknown},       // 259
                           {"", control}},           // no spelling: never found
                          {}));
  EXPECT_EQ(t->encode("<|a|><|b|><|a|>", parsed), (Ids{257, 256}));
  EXPECT_EQ(t->encode("[x]<unk>", parsed), (Ids{258, 259}));
  EXPECT_EQ(t->encode("[x]<|a|>", plain), (Ids{258, '<', '|', 'a', '|', '>'}));
  EXPECT_EQ(t->decode(Ids{256, 258, 259, 'a'}), "[x]a");
  EXPECT_EQ(t->decode(Ids{256, 258, 259, 'a'}, true), "<|a|>[x]<unk>a");
  EXPECT_TRUE(t->is_control(256));
  EXPECT_FALSE(t->is_control(258));
  EXPECT_FALSE(t->is_control(-1));
  EXPECT_EQ(t->find("<|a|>"), 256);
  EXPECT_EQ(t->find("<|c|>"), -1);
  EXPECT_EQ(t->find(""), -1);
}

TEST(Special, OverlappingSpellings) {
  // As llama.cpp: the longer token takes its places in the whole text before the shorter is looked for.
  const auto t = load(bpe({{"abc", user_defined}, {"cdef", user_defined}, {"zz", user_defined}}, {}));
  EXPECT_EQ(t->encode("abcdef", plain), (Ids{'a', 'b', 257}));
  EXPECT_EQ(t->encode("zzzzz", plain), (Ids{258, 258, 'z'}));
}

TEST(Special, OverlapsAreTriedAgainWithShorterOnes) {
  const auto t = load(bpe({{"ab", user_defined},      // 256
                           {"abc", user_defined},     // 257
                           {"abcde", user_defined},   // 258
                           {"cdefgh", user_defined},  // 259
                           {"ghi", user_defined},     // 260
                           {"h", user_defined}},      // 261
                          {}));
  EXPECT_EQ(t->encode("abcdefghi", plain), (Ids{256, 259, 'i'}));
  EXPECT_EQ(t->encode("abcdeghi", plain), (Ids{258, 260}));
  EXPECT_EQ(t->encode("abcdfgh", plain), (Ids{257, 'd', 'f', 'g', 261}));
}

/// What llama.cpp does, token by token.
Ids cut_one_after_the_other(std::vector<Entry> tokens, const std::string& text) {
  std::vector<std::pair<std::string, int32_t>> parts = {{text, -1}};
  std::vector<size_t> order(tokens.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return tokens[a].text.size() > tokens[b].text.size(); });
  for (const size_t token : order) {
    decltype(parts) next;
    for (auto& [part, id] : parts) {
      for (size_t at; id < 0 && (at = part.find(tokens[token].text)) != std::string::npos;) {
        next.emplace_back(part.substr(0, at), -1);
        next.emplace_back("", 256 + static_cast<int32_t>(token));
        part = part.substr(at + tokens[token].text.size());
      }
      next.emplace_back(part, id);
    }
    parts = std::move(next);
  }
  Ids ids;
  for (const auto& [part, id] : parts) {
    for (const char c : part) ids.push_back(c);
    if (id >= 0) ids.push_back(id);
  }
  return ids;
}

TEST(Special, AnyOverlapsAreCutAsLlamaCppDoes) {
  std::mt19937 random(7);
  const auto word = [&](size_t longest) {
    std::string text(1 + random() % longest, 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    return text;
  };
  for (int round = 0; round < 200; ++round) {
    std::set<std::string> spellings;
    while (spellings.size() < 12) spellings.insert(word(6));
    std::vector<Entry> tokens;
    for (const std::string& text : spellings) tokens.push_back({text, user_defined});
    const auto t = load(bpe(tokens, {}));
    for (int i = 0; i < 10; ++i) {
      const std::string text = word(60);
      EXPECT_EQ(t->encode(text, plain), cut_one_after_the_other(tokens, text)) << text;
    }
  }
}

TEST(Special, FromLeftToRightWhereTheVocabularySaysSo) {
  Metadata metadata = bpe({{"ab", user_defined}, {"bcd", user_defined}, {"abx", control}}, {});
  metadata.add("tokenizer.quern.leftmost_special", true);
  const auto t = load(metadata);
  EXPECT_EQ(t->encode("abcd", plain), (Ids{256, 'c', 'd'}));
  EXPECT_EQ(t->encode("abxbcd", parsed), (Ids{258, 257}));
  EXPECT_EQ(t->encode("abxbcd", plain), (Ids{256, 'x', 257}));
}

TEST(Special, Phi3SwallowsWhiteSpaceAfterThem) {
  const std::vector<Entry> entries = {{"▁"}, {"a"}, {"<|user|>", control}, {"<|endoftext|>", control}};
  const int32_t space = first, a = first + 1, user = first + 2, end = first + 3;
  const auto phi = load(with(spm(entries), "general.name", "Phi-3 Mini"));
  EXPECT_EQ(phi->encode("<|user|> \n a", parsed), (Ids{user, space, a}));
  EXPECT_EQ(phi->encode("<|user|>\n<|user|>\n", parsed), (Ids{user, user}));
  EXPECT_EQ(phi->encode("<|endoftext|> a", parsed), (Ids{end, space, space, a}));
  const auto other = load(with(spm(entries), "general.name", "Llama"));
  EXPECT_EQ(other->encode("<|user|> a", parsed), (Ids{user, space, space, a}));
}

TEST(Special, EndsOfGeneration) {
  const Metadata metadata = with(spm({{"<|im_end|>"},
                                      {"<end_of_turn>", control},
                                      {"<|eom_id|>", control},
                                      {"done"},
                                      {"<PRE>", control},
                                      {"<SUF>"},
                                      {"<MID>", control},
                                      {"<|file_sep|>", control}}),
                                 "tokenizer.ggml.eos_token_id", uint64_t{first + 3});
  const auto t = load(metadata);
  EXPECT_EQ(t->eos(), first + 3);
  for (const int32_t id : {2, first, first + 1, first + 2, first + 3, first + 7})
    EXPECT_TRUE(t->is_eog(id)) << id;
  for (const int32_t id : {0, 1, first + 4, -1}) EXPECT_FALSE(t->is_eog(id)) << id;
  EXPECT_TRUE(t->is_control(first));  // whatever its type says
  EXPECT_EQ(t->infill().prefix, first + 4);
  EXPECT_EQ(t->infill().suffix, first + 5);
  EXPECT_EQ(t->infill().middle, first + 6);
  const auto named = load(with(metadata, "tokenizer.ggml.fim_pre_token_id", uint64_t{7}));
  EXPECT_EQ(named->infill().prefix, 7);
  EXPECT_EQ(load(spm({}))->infill().middle, -1);
}

TEST(Special, EndOfAPartIsNotTheEndWhereAnswersHaveParts) {
  const auto t = load(
      bpe({{"<|return|>", control}, {"<|call|>", control}, {"<|end|>", control}, {"<|channel|>", control}},
          {}, "gpt-4o"));
  EXPECT_TRUE(t->is_eog(256));
  EXPECT_FALSE(t->is_eog(258));
  EXPECT_EQ(t->piece(258), "<|end|>");
  EXPECT_EQ(t->piece(259), "<|channel|>");
  EXPECT_EQ(t->encode("<|channel|>", plain), (Ids{259}));
}

TEST(Special, IdsOutsideTheVocabularyAreLeftOutWithAWarning) {
  std::vector<std::string> warnings;
  Metadata metadata = with(spm({}), "tokenizer.ggml.bos_token_id", uint64_t{70000});
  metadata = with(metadata, "tokenizer.ggml.eot_token_id", int64_t{-5});
  metadata = with(metadata, "tokenizer.ggml.eos_token_id", std::string("two"));
  const auto t = load(metadata, &warnings);
  EXPECT_EQ(t->bos(), 1);  // the default of its kind
  EXPECT_EQ(t->eos(), 2);
  ASSERT_EQ(warnings.size(), 3u);
  EXPECT_NE(warnings[0].find("tokenizer.ggml.bos_token_id"), std::string::npos);
}

TEST(Special, ListsOfWrongIdsAreOneWarning) {
  std::vector<std::string> warnings;
  Metadata::Array ids{std::vector<int64_t>{70000, -5, 3, 80000}};
  load(with(spm({}), "tokenizer.quern.rstrip", std::move(ids)), &warnings);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("tokenizer.quern.rstrip: 3 of its ids, such as 80000"), std::string::npos);
}

TEST(Special, BosAndEosAreAddedByRule) {
  const std::vector<Entry> entries = {{"<s>", control}, {"</s>", control}};
  const auto pre = [&](const std::string& name) {
    Metadata m = with(bpe(entries, {}, name), "tokenizer.ggml.bos_token_id", uint64_t{256});
    return with(m, "tokenizer.ggml.eos_token_id", uint64_t{257});
  };
  EXPECT_EQ(load(pre("gpt-2"))->encode("a"), (Ids{'a'}));
  EXPECT_EQ(load(pre("llama-bpe"))->encode("a"), (Ids{256, 'a'}));
  EXPECT_EQ(load(pre("tekken"))->encode("a"), (Ids{256, 'a'}));
  EXPECT_EQ(load(with(pre("llama-bpe"), "tokenizer.ggml.add_bos_token", false))->encode("a"), (Ids{'a'}));
  Metadata both = with(pre("qwen2"), "tokenizer.ggml.add_bos_token", true);
  both = with(both, "tokenizer.ggml.add_eos_token", true);
  EXPECT_EQ(load(both)->encode("a"), (Ids{256, 'a', 257}));
  EXPECT_EQ(load(both)->encode("a", parsed), (Ids{'a'}));
  EXPECT_EQ(load(both)->encode(""), (Ids{256, 257}));
  // No BOS to add: none is.
  std::vector<std::string> warnings;
  const auto none = load(bpe({}, {}, "llama-bpe"), &warnings);
  EXPECT_EQ(none->bos(), -1);
  EXPECT_EQ(none->encode("a"), (Ids{'a'}));
  EXPECT_EQ(warnings.size(), 1u);
}

// --- byte-level BPE
// ------------------------------------------------------------------------------------------

TEST(Bpe, JoinsInTheOrderOfTheMergeList) {
  const auto t = load(bpe({{"ab"}, {"bc"}, {"abc"}, {"Ġa"}}, {"b c", "a b", "a bc", "Ġ a"}));
  EXPECT_EQ(t->encode("abc", plain), (Ids{258}));
  EXPECT_EQ(t->encode("ab", plain), (Ids{256}));
  EXPECT_EQ(t->encode("a a", plain), (Ids{'a', 259}));
  EXPECT_EQ(t->piece(259), " a");
  std::string text;
  for (int i = 0; i < 100; ++i) text += "abc";  // by the heap
  EXPECT_EQ(t->encode(text, plain), Ids(100, 258));
}

TEST(Bpe, MergesThatNoTokenSpellsStillLeadOn) {
  // "ab" is no token, "abc" is.
  const auto t = load(bpe({{"abc"}}, {"a b", "ab c"}));
  EXPECT_EQ(t->encode("abc", plain), (Ids{256}));
  EXPECT_EQ(t->encode("abd", plain), (Ids{'a', 'b', 'd'}));
}

TEST(Bpe, TakesAWholeWordWhereItsRulesSaySo) {
  const std::vector<Entry> entries = {{"Ġhello"}, {"ll"}, {"<s>", control}};
  EXPECT_EQ(load(bpe(entries, {"l l"}, "llama-bpe"))->encode(" hello", plain), (Ids{256}));
  EXPECT_EQ(load(bpe(entries, {"l l"}, "qwen2"))->encode(" hello", plain), (Ids{' ', 'h', 'e', 257, 'o'}));
}

TEST(Bpe, PiecesAreBytesExceptOfAddedTokens) {
  const auto t = load(bpe({{"Ġé"}, {"<｜tool▁call｜>"}, {"<|x|>", user_defined}, {"pad", unused}}, {}));
  EXPECT_EQ(t->piece(' '), " ");
  EXPECT_EQ(t->piece(0xE9), "\xE9");
  EXPECT_EQ(t->piece(256), " \xE9");
  EXPECT_EQ(t->piece(257), "<｜tool▁call｜>");
  EXPECT_EQ(t->piece(258), "<|x|>");
  EXPECT_EQ(t->piece(259, true), "");
}

TEST(Bpe, PlainUtf8VocabulariesEscapeSpacesAndFallBackToBytes) {
  Metadata metadata = vocabulary(
      "gpt2",
      {{"▁"}, {"a"}, {"▁a"}, {"é"}, {"<0xE4>", byte}, {"<0xB8>", byte}, {"<0xAD>", byte}, {"\n"}, {"\n\n"}});
  metadata.add("tokenizer.ggml.merges", Metadata::Array{std::vector<std::string>{"▁ a"}});
  metadata.add("tokenizer.ggml.pre", std::string("sarvam-moe"));
  const auto t = load(metadata);
  EXPECT_EQ(t->encode("a a中é", plain), (Ids{1, 2, 4, 5, 6, 3}));
  EXPECT_EQ(t->decode(Ids{1, 2, 4, 5, 6, 3}), "a a中é");
  EXPECT_EQ(t->encode("\n\n", plain), (Ids{7, 7}));
  EXPECT_EQ(load(with(metadata, "tokenizer.ggml.pre", std::string("gemma4")))->encode("\n\n", plain),
            (Ids{8}));
}

TEST(Bpe, AnUnknownPreTokenizerIsAWarningThatNamesIt) {
  std::vector<std::string> warnings;
  load(bpe({}, {}, "no-such-pre"), &warnings);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("'no-such-pre'"), std::string::npos);
  warnings.clear();
  const Metadata missing = with(bpe({}, {}), "tokenizer.ggml.pre", std::nullopt);
  EXPECT_EQ(load(missing, &warnings)->encode("1234", plain), (Ids{'1', '2', '3', '4'}));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("tokenizer.ggml.pre"), std::string::npos);
}

// --- broken files
// --------------------------------------------------------------------------------------------

TEST(Broken, ErrorsNameTheKey) {
  const Metadata good = spm({{"a"}});
  const auto message = [&](const Metadata& metadata, const std::string& key,
                           std::optional<Metadata::Value> value) {
    return error_of(with(metadata, key, std::move(value)));
  };
  const auto names = [](const std::string& error, const std::string& key) {
    EXPECT_NE(error.find(key), std::string::npos) << error;
  };
  using Doubles = std::vector<double>;
  for (const std::string model : {"bert", "t5", "rwkv", "plamo2", "none", "no_vocab"}) {
    names(message(good, "tokenizer.ggml.model", model), "'" + model + "'");
  }
  names(message(good, "tokenizer.ggml.model", std::nullopt), "tokenizer.ggml.model");
  names(message(good, "tokenizer.ggml.model", uint64_t{3}), "tokenizer.ggml.model");
  names(message(good, "tokenizer.ggml.tokens", std::nullopt), "tokenizer.ggml.tokens");
  names(message(good, "tokenizer.ggml.tokens", Metadata::Array{Doubles(1000000)}), "tokenizer.ggml.tokens");
  names(message(good, "tokenizer.ggml.tokens", Metadata::Array{std::vector<std::string>{}}),
        "tokenizer.ggml.tokens");
  names(message(good, "tokenizer.ggml.scores", Metadata::Array{Doubles(7)}), "tokenizer.ggml.scores");
  names(message(good, "tokenizer.ggml.scores", std::string("x")), "tokenizer.ggml.scores");
  names(message(good, "tokenizer.ggml.token_type", Metadata::Array{std::vector<int64_t>(7)}),
        "tokenizer.ggml.token_type");
  names(message(good, "tokenizer.ggml.token_type", Metadata::Array{Doubles(1000)}),
        "tokenizer.ggml.token_type");
  names(message(bpe({}, {}), "tokenizer.ggml.merges", std::nullopt), "tokenizer.ggml.merges");
  names(message(bpe({}, {}), "tokenizer.ggml.merges", Metadata::Array{Doubles(5)}), "tokenizer.ggml.merges");
}

TEST(Broken, OddContentsAreLivedWith) {
  std::vector<std::string> warnings;
  // Twice the same spelling, an empty one, merges without two parts, scores that are no numbers.
  const auto t = load(
      bpe({{"ab"}, {"ab"}, {""}, {"\xFF\xFE"}}, {"a b", "", " ", "a", "a ", " a", "a b", "x  y"}), &warnings);
  EXPECT_EQ(t->encode("ab", plain), (Ids{256}));
  EXPECT_EQ(t->piece(257), "ab");
  EXPECT_EQ(t->piece(258), "");
  EXPECT_EQ(t->piece(259), "\xFF\xFE");
  EXPECT_EQ(warnings.size(), 1u);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto s =
      load(spm({{"▁"}, {"a", 1, nan}, {"aa", 1, nan}, {"▁a", 1, HUGE_VAL}, {"<0xZZ>", byte}, {"<0x", byte}}));
  EXPECT_EQ(s->encode("aaa", plain), (Ids{first + 3, first + 2}));
  EXPECT_EQ(s->piece(first + 4), "<0xZZ>");
  // Types that nobody has heard of.
  EXPECT_EQ(load(spm({{"a", 77}, {"b", -1}}))->piece(first), "");
}

// --- time
// ----------------------------------------------------------------------------------------------------

// A quadratic algorithm would take hours for these; sanitizers make everything ten to thirty times slower.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr size_t kLong = 1 << 17;
#else
constexpr size_t kLong = 1 << 20;
#endif

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  const clock_t start = clock();
  const Ids ids = tokenizer.encode(text);
  EXPECT_FALSE(ids.empty());
  return static_cast<double>(clock() - start) / CLOCKS_PER_SEC;
}

TEST(Time, LongWordsAreNearLinear) {
  const std::string a(kLong, 'a');
  std::vector<Entry> entries = {{"▁"}, {"a"}};
  std::vector<std::string> merges;
  for (std::string run = "a"; run.size() < 64; run += run) {
    entries.push_back({run + run, 1, -static_cast<double>(run.size())});
    merges.push_back(fmt::format("{} {}", run, run));
  }
  EXPECT_LT(seconds_to_encode(*load(spm(entries)), a), 10.0);
  entries.erase(entries.begin(), entries.begin() + 2);
  EXPECT_LT(seconds_to_encode(*load(bpe(entries, merges)), a), 10.0);
  EXPECT_LT(seconds_to_encode(*load(spm({})), a), 10.0);
}

TEST(Time, ManySpecialTokensAreNearLinear) {
  std::vector<Entry> entries;
  for (int i = 0; i < 5000; ++i)
    entries.push_back({fmt::format("<|reserved_special_token_{}|>", i), control});
  const auto t = load(bpe(entries, {}));
  std::string near, hits;
  while (near.size() < kLong) near += "<|reserved_special_token_";
  for (int i = 0; hits.size() < kLong / 4; ++i) hits += "x" + entries[i % 100].text;
  EXPECT_LT(seconds_to_encode(*t, near), 10.0);
  EXPECT_LT(seconds_to_encode(*t, hits), 10.0);
  // Each token once is the worst for a way that looks for one token after the other.
  entries.clear();
  std::string once;
  for (size_t i = 0; i < kLong / 32; ++i) {
    entries.push_back({fmt::format("<{:05}>", i), user_defined});
    once += entries.back().text + "x";
  }
  EXPECT_LT(seconds_to_encode(*load(bpe(entries, {})), once), 10.0);
}

}  // namespace
}  // namespace quern
