#include "hub/select.h"

#include <gtest/gtest.h>

namespace quern::hub {
namespace {

using Names = std::vector<std::string>;

Result<Selection> choose(std::string_view reference, const Names& files) {
  return select_files(parse_reference(reference).value(), files);
}

Names with(const std::string& stem, std::initializer_list<const char*> quants) {
  Names files = {"README.md", "config.json"};
  for (const char* quant : quants) files.push_back(stem + "." + quant + ".gguf");
  return files;
}

TEST(Select, DefaultIsQ4KMThenTheStatedOrder) {
  auto s = choose("a/b", with("m", {"Q2_K", "Q4_0", "Q4_K_M", "Q8_0"}));
  ASSERT_TRUE(s.has_value()) << s.error().message;
  EXPECT_EQ(s->files, Names{"m.Q4_K_M.gguf"});
  EXPECT_TRUE(s->by_default);
  EXPECT_EQ(s->alternatives, (Names{"Q2_K", "Q4_0", "Q8_0"}));
  EXPECT_EQ(choose("a/b", with("m", {"Q8_0", "Q5_K_M", "Q4_0"}))->chosen, "Q5_K_M");
  EXPECT_EQ(choose("a/b", with("m", {"Q8_0", "Q2_K", "Q6_K"}))->chosen, "Q6_K");
  EXPECT_EQ(choose("a/b", with("m", {"f16", "bf16"}))->chosen, "BF16");
  EXPECT_EQ(choose("a/b", {"only.gguf"})->files, Names{"only.gguf"});
  EXPECT_FALSE(choose("a/b", with("m", {"IQ2_XXS", "IQ4_NL"})));
  // microsoft/Phi-3-mini-4k-instruct-gguf: a quantized file of another name is still the one that is meant.
  EXPECT_EQ(choose("a/b", {"Phi-3-mini-4k-instruct-fp16.gguf", "Phi-3-mini-4k-instruct-q4.gguf"})->chosen,
            "Q4");
  EXPECT_EQ(choose("a/b", with("m", {"F16", "Q3_K_L", "Q5_1", "IQ4_NL"}))->chosen, "Q5_1");
  EXPECT_EQ(choose("a/b", with("m", {"F16", "IQ4_NL"}))->chosen, "F16");
}

TEST(Select, ByQuantizationAndFile) {
  const Names files = with("m", {"Q2_K", "q8_0"});
  EXPECT_EQ(choose("a/b:Q8_0", files)->files, Names{"m.q8_0.gguf"});
  EXPECT_EQ(choose("a/b:m.Q2_K.gguf", files)->chosen, "Q2_K");
  EXPECT_EQ(choose("a/b:M.q2_k.gguf", files)->chosen, "Q2_K") << "another case, but clear";
  const auto wrong = choose("a/b:Q3_K_M", files);
  ASSERT_FALSE(wrong.has_value());
  EXPECT_EQ(wrong.error().code, ErrorCode::not_found);
  EXPECT_NE(wrong.error().message.find("did you mean Q2_K"), std::string::npos) << wrong.error().message;
  const auto file = choose("a/b:m.Q2_k_m.gguf", files);
  ASSERT_FALSE(file.has_value());
  EXPECT_NE(file.error().message.find("m.Q2_K.gguf"), std::string::npos) << file.error().message;
}

TEST(Select, SplitFilesAreOneModel) {
  const Names files = {"m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00002-of-00003.gguf",
                       "m-Q8_0-00003-of-00003.gguf", "Q2_K/m-00001-of-00002.gguf",
                       "Q2_K/m-00002-of-00002.gguf"};
  EXPECT_EQ(choose("a/b", files)->files, (Names{files[0], files[1], files[2]}));
  EXPECT_EQ(choose("a/b:m-Q8_0-00002-of-00003.gguf", files)->files.size(), 3U);
  EXPECT_EQ(choose("a/b:q2_k", files)->files, (Names{files[3], files[4]}));
  EXPECT_FALSE(choose("a/b:Q8_0", {files[0], files[2]})) << "a part is missing";
}

TEST(Select, OfTwoOfOneTypeTheExpectedOne) {
  EXPECT_EQ(choose("a/b:Q4_K_M",
                   {"sub/m.Q4_K_M.gguf", "m-long-name.Q4_K_M.gguf", "m.Q4_K_M.gguf", "mmproj.Q4_K_M.gguf"})
                ->files,
            Names{"m.Q4_K_M.gguf"});
  EXPECT_EQ(choose("a/b:Q4_K_XL", {"m-UD-Q4_K_XL.gguf"})->files, Names{"m-UD-Q4_K_XL.gguf"});
  EXPECT_EQ(choose("a/b:UD-Q4_K_M", {"m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"})->files, Names{"m-UD-Q4_K_M.gguf"});
}

TEST(Select, ImportanceMatricesAreNoModels) {
  const Names files = {"m-BF16.imatrix.gguf", "m-imatrix-Q4_K_M.gguf", "m-imatrix-Q8_0.gguf",
                       "m-imatrix.gguf"};
  EXPECT_EQ(choose("a/b", files)->chosen, "Q4_K_M");
  EXPECT_EQ(choose("a/b:Q8_0", files)->files, Names{"m-imatrix-Q8_0.gguf"});
  EXPECT_EQ(gguf_models(files).size(), 2u);
  EXPECT_FALSE(choose("a/b:BF16", files));
  EXPECT_EQ(choose("a/b:m-imatrix.gguf", files)->files, Names{"m-imatrix.gguf"}) << "named, so meant";
}

TEST(Select, ShardsWithoutAnIndex) {
  const Names files = {"config.json",
                       "model-00001-of-00003.safetensors",
                       "model-00002-of-00003.safetensors",
                       "model-00003-of-00003.safetensors",
                       "other.safetensors",
                       "tokenizer.json"};
  const auto all = choose("a/b", files);
  ASSERT_TRUE(all) << all.error().message;
  EXPECT_EQ(all->index, "");
  EXPECT_EQ(all->weights, (Names{files[1], files[2], files[3]}));
  EXPECT_EQ(all->files, (Names{files[0], files[5], files[1], files[2], files[3]}));
  for (const size_t missing : {1u, 2u, 3u}) {
    Names some = files;
    some.erase(some.begin() + static_cast<std::ptrdiff_t>(missing));
    const auto selection = choose("a/b", some);
    ASSERT_FALSE(selection) << missing;
    EXPECT_EQ(selection.error().code, ErrorCode::not_found);
    EXPECT_NE(selection.error().message.find("no index of its shards"), std::string::npos);
  }
}

TEST(Select, Checkpoints) {
  const Names plain = {".gitattributes",    "README.md",      "config.json",
                       "model.safetensors", "tokenizer.json", "onnx/model.safetensors"};
  auto s = choose("a/b", plain);
  ASSERT_TRUE(s.has_value()) << s.error().message;
  EXPECT_EQ(s->kind, Selection::Kind::checkpoint);
  EXPECT_EQ(s->files, (Names{"config.json", "tokenizer.json", "model.safetensors"}));
  const Names sharded = {"config.json", "consolidated.safetensors", "model-00001-of-00002.safetensors",
                         "model-00002-of-00002.safetensors", "model.safetensors.index.json"};
  EXPECT_EQ(choose("a/b", sharded)->index, "model.safetensors.index.json");
  EXPECT_EQ(choose("a/b", {"config.json", "quantize_config.json", "gptq_model-4bit-128g.safetensors"})
                ->files.size(),
            3U);
  EXPECT_FALSE(choose("a/b", {"config.json", "x.safetensors", "y.safetensors"}));
  EXPECT_FALSE(choose("a/b:Q8_0", plain));
  const auto pickled = choose("a/b", {"config.json", "pytorch_model.bin"});
  ASSERT_FALSE(pickled.has_value());
  EXPECT_NE(pickled.error().message.find("pickled"), std::string::npos);
}

TEST(Select, Tokenizers) {
  EXPECT_EQ(tokenizer_files(Names{"README.md", "config.json", "model.safetensors", "tokenizer.model"}),
            (Names{"config.json", "tokenizer.model"}));
  const Names templates = {"additional_chat_templates/tool_use.jinja", "additional_chat_templates/x/y.jinja",
                           "chat_template.jinja", "other/z.jinja", "tokenizer.json"};
  EXPECT_EQ(tokenizer_files(templates), (Names{templates[0], templates[2], templates[4]}));
  EXPECT_TRUE(tokenizer_files(Names{"config.json", "tokenizer_config.json"}).empty());
  EXPECT_TRUE(tokenizer_files(Names{"config.json", "merges.txt", "vocab.json"}).empty())
      << "nothing reads them";
}

}  // namespace
}  // namespace quern::hub
