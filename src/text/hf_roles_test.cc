// Special tokens, chat templates, generation defaults, and tokenizer.model.
#include <gtest/gtest.h>

#include <bit>

#include "core/test_data.h"
#include "text/chat_template.h"
#include "text/hf_tokenizer.h"
#include "text/hf_tokenizer_test_data.h"
#include "text/tokenizer.h"

namespace quern {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;
using test::CheckpointFolder;

Metadata read(const CheckpointFolder& folder, std::vector<std::string>* warnings = nullptr) {
  auto metadata = read_hf_text(folder.path, warnings);
  EXPECT_TRUE(metadata) << metadata.error().message;
  return metadata ? *std::move(metadata) : Metadata();
}

std::unique_ptr<Tokenizer> load(const Metadata& metadata) {
  auto tokenizer = Tokenizer::from_metadata(metadata);
  EXPECT_TRUE(tokenizer) << tokenizer.error().message;
  return tokenizer ? *std::move(tokenizer) : nullptr;
}

/// 256 bytes, then "<s>" 256, "</s>" 257, "<end>" 258, "<stop>" 259 and "<halt>" 260.
json tokenizer_json() {
  json vocab = json::object(), added = json::array();
  for (const std::string& c : byte_to_char()) vocab[c] = vocab.size();
  for (const char* text : {"<s>", "</s>", "<end>", "<stop>", "<halt>"})
    added.push_back({{"id", 256 + added.size()}, {"content", text}, {"special", true}});
  return {{"added_tokens", added},
          {"pre_tokenizer", test::byte_level(true)},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
}

json template_of(const std::string& before, const std::string& after) {
  json single = json::array();
  if (!before.empty()) single.push_back({{"SpecialToken", {{"id", before}, {"type_id", 0}}}});
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (!after.empty()) single.push_back({{"SpecialToken", {{"id", after}, {"type_id", 0}}}});
  return {{"type", "TemplateProcessing"}, {"single", single}};
}

TEST(HfRoles, ThePostProcessorTellsWhatIsAdded) {
  const json config = {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}};
  const auto ids_with = [&](const json& post, const json& more) {
    json file = tokenizer_json(), settings = config;
    file["post_processor"] = post;
    settings.update(more);
    CheckpointFolder folder;
    folder.write("tokenizer.json", file).write("tokenizer_config.json", settings);
    return load(read(folder))->encode("");
  };
  const json none = json::object();
  EXPECT_EQ(ids_with(nullptr, none), (Ids{}));
  EXPECT_EQ(ids_with(template_of("<s>", ""), none), (Ids{256}));
  EXPECT_EQ(ids_with(template_of("<s>", "</s>"), none), (Ids{256, 257}));
  EXPECT_EQ(
      ids_with({{"type", "Sequence"}, {"processors", {test::byte_level(false), template_of("<s>", "")}}},
               none),
      (Ids{256}));
  EXPECT_EQ(ids_with(template_of("<s>", ""), {{"add_bos_token", false}}), (Ids{}));
  EXPECT_EQ(ids_with(nullptr, {{"add_bos_token", true}, {"add_eos_token", true}}), (Ids{256, 257}));
}

TEST(HfRoles, ConfigurationsNumberWhatTextsDoNotName) {
  CheckpointFolder folder;
  folder.write("tokenizer.json", tokenizer_json())
      .write("tokenizer_config.json", json{{"bos_token", nullptr}})
      .write("special_tokens_map.json", json{{"eos_token", "<end>"}})
      .write("config.json", json{{"bos_token_id", 256}, {"eos_token_id", 257}, {"pad_token_id", -1}});
  const auto tokenizer = load(read(folder));
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_EQ(tokenizer->eos(), 258);
  EXPECT_TRUE(tokenizer->is_eog(257));
}

TEST(HfRoles, EveryEndIdEndsAnAnswer) {
  CheckpointFolder folder;
  folder.write("tokenizer.json", tokenizer_json())
      .write("tokenizer_config.json", json{{"eos_token", "</s>"}})
      .write("generation_config.json", json{{"eos_token_id", {257, 258, 259, 260, 0}}});
  const Metadata metadata = read(folder);
  EXPECT_EQ(metadata.integer("tokenizer.ggml.eot_token_id"), 258);
  EXPECT_EQ(metadata.integer("tokenizer.ggml.eom_token_id"), 259);
  const auto tokenizer = load(metadata);
  for (const int32_t id : {257, 258, 259, 260, 0}) EXPECT_TRUE(tokenizer->is_eog(id)) << id;
  EXPECT_FALSE(tokenizer->is_eog(256));
  EXPECT_FALSE(tokenizer->is_eog(1));
}

TEST(HfRoles, PaddingOfTheVocabularyIsUnused) {
  CheckpointFolder folder;
  folder.write("tokenizer.json", tokenizer_json()).write("config.json", json{{"vocab_size", 300}});
  const auto tokenizer = load(read(folder));
  EXPECT_EQ(tokenizer->size(), 300);
  EXPECT_EQ(tokenizer->raw(299), "[PAD299]");
  EXPECT_EQ(tokenizer->piece(299, true), "");
  EXPECT_EQ(tokenizer->encode("[PAD299]").size(), 8u);
}

TEST(HfRoles, StrippingTokens) {
  json file = tokenizer_json();
  file["added_tokens"][2]["lstrip"] = true;
  file["added_tokens"][3]["rstrip"] = true;
  CheckpointFolder folder;
  folder.write("tokenizer.json", file);
  const auto tokenizer = load(read(folder));
  const auto letter = [&](const char* c) { return tokenizer->find(c); };
  EXPECT_EQ(tokenizer->encode("a \n\xE2\x80\x83<end> a"), (Ids{letter("a"), 258, letter("Ġ"), letter("a")}));
  EXPECT_EQ(tokenizer->encode("a <stop> \xC2\xA0 a"), (Ids{letter("a"), letter("Ġ"), 259, letter("a")}));
  EXPECT_EQ(tokenizer->encode("  <end><stop>  "), (Ids{258, 259}));
}

TEST(HfTemplates, WhereTheyComeFrom) {
  CheckpointFolder folder;
  folder.write("tokenizer.json", tokenizer_json());
  EXPECT_FALSE(read(folder).contains("tokenizer.chat_template"));
  folder.write("tokenizer_config.json", json{{"chat_template", "config"}});
  EXPECT_EQ(*read(folder).string("tokenizer.chat_template"), "config");
  folder.write("tokenizer_config.json", json{{"chat_template",
                                              {{{"name", "default"}, {"template", "plain"}},
                                               {{"name", "tool-use"}, {"template", "tools"}},
                                               {{"name", 5}}}}});
  std::vector<std::string> warnings;
  const Metadata metadata = read(folder, &warnings);
  EXPECT_EQ(*metadata.string("tokenizer.chat_template"), "plain");
  EXPECT_EQ(*metadata.string("tokenizer.chat_template.tool_use"), "tools");
  EXPECT_EQ(*metadata.strings("tokenizer.chat_templates"), std::vector<std::string>{"tool_use"});
  EXPECT_EQ(warnings.size(), 1u);
  folder.write("chat_template.json", json{{"chat_template", "json"}});
  EXPECT_EQ(*read(folder).string("tokenizer.chat_template"), "json");
  folder.write("chat_template.jinja", std::string("jinja"));
  EXPECT_EQ(*read(folder).string("tokenizer.chat_template"), "jinja");
  EXPECT_EQ(choose_chat_template(read(folder), "model").source, "jinja");
  EXPECT_EQ(choose_chat_template(read(folder), "model").tool_source, "");
  std::filesystem::create_directory(folder.path / "additional_chat_templates");
  folder.write("additional_chat_templates/tool_use.jinja", std::string("more tools"))
      .write("additional_chat_templates/rag.jinja", std::string("rag"))
      .write("additional_chat_templates/README.md", std::string("text"));
  EXPECT_EQ(*read(folder).strings("tokenizer.chat_templates"), (std::vector<std::string>{"rag", "tool_use"}));
  EXPECT_EQ(*read(folder).string("tokenizer.chat_template.rag"), "rag");
  EXPECT_EQ(choose_chat_template(read(folder), "model").source, "jinja");
  EXPECT_EQ(choose_chat_template(read(folder), "model").tool_source, "more tools");
}

TEST(HfGeneration, DefaultsBecomeKeys) {
  CheckpointFolder folder;
  folder.write("tokenizer.json", tokenizer_json())
      .write("generation_config.json", json{{"temperature", 0.6},
                                            {"top_p", 0.9},
                                            {"top_k", 20},
                                            {"min_p", 0.05},
                                            {"repetition_penalty", 1.05},
                                            {"max_new_tokens", 2048},
                                            {"do_sample", true}});
  const Metadata metadata = read(folder);
  EXPECT_EQ(metadata.number("general.sampling.temp"), 0.6);
  EXPECT_EQ(metadata.number("general.sampling.top_p"), 0.9);
  EXPECT_EQ(metadata.integer("general.sampling.top_k"), 20);
  EXPECT_EQ(metadata.number("general.sampling.min_p"), 0.05);
  EXPECT_EQ(metadata.number("general.sampling.penalty_repeat"), 1.05);
  EXPECT_EQ(metadata.integer("quern.generation.max_new_tokens"), 2048);
}

// --- tokenizer.model
// -----------------------------------------------------------------------------------------

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string field(int number, uint64_t value) { return varint(number << 3) + varint(value); }
std::string field(int number, const std::string& data) {
  return varint(number << 3 | 2) + varint(data.size()) + data;
}
std::string field(int number, float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  std::string out = varint(number << 3 | 5);
  for (int i = 0; i < 4; ++i) out += static_cast<char>(bits >> (8 * i));
  return out;
}

/// ModelProto of a vocabulary whose model is "llama".
std::string sentencepiece(const Metadata& metadata, uint64_t model_type = 2) {
  const auto& tokens = *metadata.strings("tokenizer.ggml.tokens");
  const auto types = *metadata.integers("tokenizer.ggml.token_type");
  const auto scores = *metadata.numbers("tokenizer.ggml.scores");
  std::string out;
  for (size_t id = 0; id < tokens.size(); ++id)
    out += field(1, field(1, tokens[id]) + field(2, static_cast<float>(scores[id])) +
                        (types[id] == 1 ? "" : field(3, static_cast<uint64_t>(types[id]))));
  out += field(2, field(1, std::string("corpus")) + field(3, model_type) + field(15, 0.5f));
  return out + field(3, field(1, std::string("identity")) + field(3, uint64_t{1}) + field(4, uint64_t{0}));
}

TEST(HfSentencePiece, TokenizesAsTheGgufFile) {
  if (!test_data()) GTEST_SKIP() << "no public test data: set QUERN_TEST_DATA";
  const Metadata gguf = test::read_gguf_metadata(*test_data() / "vocab/llama-spm.gguf");
  CheckpointFolder folder;
  folder.write("tokenizer.model", sentencepiece(gguf));
  std::vector<std::string> warnings;
  const Metadata metadata = read(folder, &warnings);
  EXPECT_TRUE(warnings.empty()) << warnings.front();
  EXPECT_EQ(*metadata.strings("tokenizer.ggml.tokens"), *gguf.strings("tokenizer.ggml.tokens"));
  EXPECT_EQ(metadata.integers("tokenizer.ggml.token_type"), gguf.integers("tokenizer.ggml.token_type"));
  EXPECT_EQ(metadata.numbers("tokenizer.ggml.scores"), gguf.numbers("tokenizer.ggml.scores"));
  const auto ours = load(metadata), theirs = load(gguf);
  const std::string text = test::read_all(*test_data() / "vocab/cases.txt");
  EXPECT_EQ(ours->encode(text), theirs->encode(text));
}

Metadata tiny() {
  Metadata metadata;
  metadata.add("tokenizer.ggml.tokens",
               Metadata::Array{std::vector<std::string>{"<unk>", "<s>", "</s>", "▁", "a", "▁a", "<free>"}});
  metadata.add("tokenizer.ggml.token_type", Metadata::Array{std::vector<int64_t>{2, 3, 3, 1, 1, 1, 5}});
  metadata.add("tokenizer.ggml.scores", Metadata::Array{std::vector<double>{0, 0, 0, -3, -2, -1, 0}});
  return metadata;
}

TEST(HfSentencePiece, AddedTokens) {
  CheckpointFolder folder;
  folder.write("tokenizer.model", sentencepiece(tiny()))
      .write("added_tokens.json", json{{"<mine>", 8}, {"a▁b", 7}})
      .write("tokenizer_config.json",
             json{{"added_tokens_decoder",
                   {{"1", {{"content", "<s>"}, {"special", true}}}, {"9", {{"content", "<|x|>"}}}}}})
      .write("config.json", json{{"vocab_size", 12}});
  const auto tokenizer = load(read(folder));
  EXPECT_EQ(tokenizer->size(), 12);
  EXPECT_EQ(tokenizer->encode("a<mine>a b<|x|>"), (Ids{1, 5, 8, 7, 9}));
  EXPECT_TRUE(tokenizer->is_control(9));
  EXPECT_FALSE(tokenizer->is_control(8));
  EXPECT_EQ(tokenizer->raw(11), "[PAD11]");
}

TEST(HfSentencePiece, BrokenFiles) {
  const auto error_of = [](const std::string& bytes) -> std::string {
    CheckpointFolder folder;
    folder.write("tokenizer.model", bytes);
    const auto metadata = read_hf_text(folder.path);
    return metadata ? "no error" : metadata.error().message;
  };
  const std::string whole = sentencepiece(tiny());
  EXPECT_EQ(error_of(whole), "no error");
  EXPECT_NE(error_of(sentencepiece(tiny(), 1)).find("unigram is not supported"), std::string::npos);
  EXPECT_NE(error_of("").find("not a SentencePiece model"), std::string::npos);
  EXPECT_NE(error_of("IQ== 0\nIg== 1\n").find("not a SentencePiece model"), std::string::npos);
  EXPECT_NE(error_of(field(1, std::string("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", 10)))
                .find("not a SentencePiece"),
            std::string::npos);
  EXPECT_NE(error_of(field(1, field(1, std::string("\xFF")))).find("not a SentencePiece"), std::string::npos);
  for (size_t length = 1; length < whole.size(); ++length) error_of(whole.substr(0, length));
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x80);
    error_of(changed);
  }
}

}  // namespace
}  // namespace quern
