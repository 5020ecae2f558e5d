// Broken and hostile files of checkpoints: one line of error each, soon, and little memory.
#include <gtest/gtest.h>

#include "text/hf_json.h"
#include "text/hf_tokenizer.h"
#include "text/hf_tokenizer_test_data.h"
#include "text/tokenizer.h"

namespace quern {
namespace {

using nlohmann::json;
using test::CheckpointFolder;

/// 256 bytes in GPT-2's alphabet, "ab" and "<x>".
json small() {
  json vocab = json::object();
  for (const std::string& c : byte_to_char()) vocab[c] = vocab.size();
  vocab["ab"] = 256;
  return {{"added_tokens", {{{"id", 257}, {"content", "<x>"}, {"special", true}}}},
          {"pre_tokenizer", test::byte_level(true)},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"a b"}}}}};
}

std::string error_of(const std::string& tokenizer_json) {
  CheckpointFolder folder;
  folder.write("tokenizer.json", tokenizer_json);
  const auto metadata = read_hf_text(folder.path);
  if (!metadata) {
    EXPECT_EQ(metadata.error().message.find('\n'), std::string::npos);
    EXPECT_LT(metadata.error().message.size(), 600u);
    return metadata.error().message;
  }
  const auto tokenizer = Tokenizer::from_metadata(*metadata);
  return tokenizer ? "no error" : tokenizer.error().message;
}
std::string error_of(const json& file) { return error_of(file.dump()); }

/// `small` with one field changed.
std::string error_with(const char* pointer, const json& value) {
  json file = small();
  file[json::json_pointer(pointer)] = value;
  return error_of(file);
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(HfHostile, TheSmallOneIsFine) { EXPECT_EQ(error_of(small()), "no error"); }

TEST(HfHostile, NoJson) {
  EXPECT_HAS(error_of(std::string()), "tokenizer.json: no valid JSON");
  EXPECT_HAS(error_of(std::string("[]")), "not a JSON object");
  EXPECT_HAS(error_of(std::string("{\"a\": \"\xFF\xFE\"}")), "invalid string: ill-formed UTF-8 byte");
  EXPECT_HAS(error_of(std::string("{} {}")), "no valid JSON");
  const std::string whole = small().dump();
  for (size_t length = 0; length < whole.size(); length += 97)
    EXPECT_HAS(error_of(whole.substr(0, length)), "no valid JSON");
}

TEST(HfHostile, DeepNesting) {
  EXPECT_HAS(error_of(std::string(100'000, '[')), "nested deeper than 64");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_HAS(error_of(objects), "nested deeper than 64");
  json sequence = test::byte_level(true);
  for (int i = 0; i < 20; ++i) sequence = {{"type", "Sequence"}, {"pretokenizers", {sequence}}};
  EXPECT_HAS(error_with("/pre_tokenizer", sequence), "sequences in sequences");
}

TEST(HfHostile, Large) {
  EXPECT_HAS(error_of("{\"a\": \"" + std::string(100 << 20, 'x') + "\"}"),
             "bytes, at most 67108864 are read");
  std::string values = "{\"a\": [0";
  for (int i = 0; i < 2'000'000; ++i) values += ",0";
  EXPECT_HAS(error_of(values + "]}"), "more than 1000000 values");
}

TEST(HfHostile, Ids) {
  EXPECT_HAS(error_with("/model/vocab/ab", 255), "have the same id 255");
  EXPECT_HAS(error_with("/model/vocab/ab", -1), "the id of 'ab' is -1");
  EXPECT_HAS(error_with("/model/vocab/ab", 1ull << 31), "the id of 'ab' is 2147483648");
  EXPECT_HAS(error_with("/model/vocab/ab", UINT64_MAX), "must be between 0 and");
  EXPECT_HAS(error_with("/model/vocab/ab", 1.5), "is no integer");
  EXPECT_HAS(error_with("/model/vocab/ab", "7"), "is no integer");
  EXPECT_HAS(error_with("/model/vocab/ab", json::array({1})), "has no id");
  EXPECT_HAS(error_with("/model/vocab/ab", 4'000'000), "ids up to 4000000 for 258 tokens");
  EXPECT_HAS(error_with("/added_tokens/0/id", 3), "have the same id 3");
  EXPECT_HAS(error_with("/added_tokens/0/id", -3), "added_tokens: ");
  EXPECT_HAS(error_with("/added_tokens/0/id", 1ull << 40), "added_tokens: ");
  EXPECT_HAS(error_with("/added_tokens/0/content", nullptr), "added_tokens: ");
}

TEST(HfHostile, Merges) {
  EXPECT_HAS(error_with("/model/merges/0", "a zz"), "model.merges[0]: 'zz' is not in the vocabulary");
  EXPECT_HAS(error_with("/model/merges/0", "b a"), "model.merges[0]: 'ba' is not in the vocabulary");
  EXPECT_HAS(error_with("/model/merges/0", json::array({"a", "b", "c"})),
             "model.merges[0]: a merge is a pair");
  EXPECT_HAS(error_with("/model/merges/0", json::array({"a"})), "model.merges[0]: a merge is a pair");
  EXPECT_HAS(error_with("/model/merges/0", json::array({1, 2})), "model.merges[0]: a merge is a pair");
  EXPECT_HAS(error_with("/model/merges/0", 5), "model.merges[0]: not a text");
  EXPECT_HAS(error_with("/model/merges/0", "ab"), "not two texts");
  EXPECT_HAS(error_with("/model/merges/0", "a  b"), "not two texts");
}

TEST(HfHostile, WhatIsNotSupportedIsNamed) {
  EXPECT_HAS(error_with("/model/type", "Unigram"), "model.type: 'Unigram' is not supported");
  EXPECT_HAS(error_with("/model/end_of_word_suffix", "</w>"), "model.end_of_word_suffix");
  EXPECT_HAS(error_with("/normalizer", {{"type", "Lowercase"}}), "normalizer.type: 'Lowercase'");
  EXPECT_HAS(error_with("/normalizer", 7), "normalizer.type: missing");
  EXPECT_HAS(error_with("/pre_tokenizer", {{"type", "Whitespace"}}), "pre_tokenizer.type: 'Whitespace'");
  json split = test::split("a|b");
  split["behavior"] = "MergedWithNext";
  EXPECT_HAS(error_with("/pre_tokenizer",
                        {{"type", "Sequence"}, {"pretokenizers", {split, test::byte_level(false)}}}),
             "'MergedWithNext' is not supported");
  EXPECT_HAS(error_with("/pre_tokenizer", {{"type", "Metaspace"}}), "model.byte_fallback");
}

TEST(HfHostile, Patterns) {
  const auto with_pattern = [](const std::string& regex) {
    return error_with("/pre_tokenizer", {{"type", "Sequence"},
                                         {"pretokenizers", {test::split(regex), test::byte_level(false)}}});
  };
  EXPECT_HAS(with_pattern("(a"), "pattern does not compile at 2: missing closing parenthesis");
  EXPECT_HAS(with_pattern("[\\p{L}&&[a-z]]"), "'&&' in a pattern is not supported");
  EXPECT_HAS(with_pattern("((a{1000}){1000}){1000}"), "does not compile");
  EXPECT_HAS(with_pattern(std::string(100'000, 'a')), "100000 bytes long");
  EXPECT_EQ(with_pattern(""), "no error");
}

/// Whether scores say all that merges say is not looked into for ever: the merges are kept then.
TEST(HfHostile, LongTokens) {
  json vocab = {{"▁", 0}, {"a", 1}, {std::string(300'000, 'a'), 2}};
  const json file = {
      {"normalizer", test::prepend_and_replace()},
      {"model",
       {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", std::move(vocab)}, {"merges", json::array()}}}};
  CheckpointFolder folder;
  folder.write("tokenizer.json", file);
  std::vector<std::string> warnings;
  const auto metadata = read_hf_text(folder.path, &warnings);
  ASSERT_TRUE(metadata) << metadata.error().message;
  EXPECT_TRUE(metadata->contains("tokenizer.ggml.merges"));
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_HAS(warnings[0], "not what SentencePiece's scores can say");
}

/// A pattern whose matching would take forever ends, and the text is still whole.
TEST(HfHostile, PatternsThatBacktrack) {
  json file = small();
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", {test::split("(?:a+)+b|(?:x*)*y"), test::byte_level(false)}}};
  CheckpointFolder folder;
  folder.write("tokenizer.json", file);
  const auto metadata = read_hf_text(folder.path);
  ASSERT_TRUE(metadata) << metadata.error().message;
  const auto tokenizer = Tokenizer::from_metadata(*metadata);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const std::string text = std::string(5000, 'a') + std::string(5000, 'x') + "\xC3\xA9\xFF";
  EXPECT_EQ((*tokenizer)->decode((*tokenizer)->encode(text)), text);
}

// --- the other files
// -----------------------------------------------------------------------------------------

TEST(HfHostile, NoTokenizer) {
  CheckpointFolder folder;
  const auto metadata = read_hf_text(folder.path);
  ASSERT_FALSE(metadata);
  EXPECT_EQ(metadata.error().code, ErrorCode::not_found);
  EXPECT_HAS(metadata.error().message, "no tokenizer.json and no tokenizer.model");
}

TEST(HfHostile, SideFiles) {
  for (const char* name : {"config.json", "tokenizer_config.json", "generation_config.json",
                           "special_tokens_map.json", "chat_template.json"}) {
    CheckpointFolder folder;
    folder.write("tokenizer.json", small()).write(name, std::string("{\"a\": "));
    const auto broken = read_hf_text(folder.path);
    ASSERT_FALSE(broken);
    EXPECT_HAS(broken.error().message, std::string(name) + ": no valid JSON");
    folder.write(name, std::string(9 << 20, ' '));
    EXPECT_HAS(read_hf_text(folder.path).error().message, "at most 8388608 are read");
  }
}

TEST(HfHostile, ValuesOfOtherKinds) {
  CheckpointFolder folder;
  folder.write("tokenizer.json", small())
      .write("tokenizer_config.json", json{{"bos_token", 5},
                                           {"eos_token", {{"content", {1}}}},
                                           {"chat_template", 7},
                                           {"add_bos_token", "yes"}})
      .write("generation_config.json", json{{"eos_token_id", {1u << 31, -5, "x", 257, 4}},
                                            {"temperature", "hot"},
                                            {"top_k", 1e300},
                                            {"top_p", -1}})
      .write("config.json", json{{"vocab_size", -7}, {"bos_token_id", UINT64_MAX}});
  std::vector<std::string> warnings;
  const auto metadata = read_hf_text(folder.path, &warnings);
  ASSERT_TRUE(metadata) << metadata.error().message;
  EXPECT_FALSE(warnings.empty());
  EXPECT_FALSE(metadata->contains("general.sampling.temp"));
  EXPECT_FALSE(metadata->contains("general.sampling.top_k"));
  EXPECT_FALSE(metadata->contains("tokenizer.ggml.bos_token_id"));
  EXPECT_FALSE(metadata->contains("tokenizer.chat_template"));
  const auto tokenizer = Tokenizer::from_metadata(*metadata);
  ASSERT_TRUE(tokenizer);
  EXPECT_TRUE((*tokenizer)->is_eog(257));
  EXPECT_TRUE((*tokenizer)->is_eog(4));
  EXPECT_FALSE((*tokenizer)->is_eog(5));
  folder.write("config.json", json{{"vocab_size", int64_t{1} << 40}});
  EXPECT_HAS(read_hf_text(folder.path).error().message, "config.json: vocab_size");
}

}  // namespace
}  // namespace quern
