#include "hub/reference.h"

#include <gtest/gtest.h>

#include "hub/quantization.h"

namespace quern {
namespace {

using Kind = ModelReference::Kind;

ModelReference parsed(std::string_view text) {
  auto reference = parse_reference(text);
  EXPECT_TRUE(reference.has_value()) << text << ": " << (reference ? "" : reference.error().message);
  return reference ? *reference : ModelReference{};
}

TEST(Reference, RepoAlone) {
  const auto r = parsed("TheBloke/Mistral-7B-Instruct-v0.2-GGUF");
  EXPECT_EQ(r.kind, Kind::hub);
  EXPECT_EQ(r.repo, "TheBloke/Mistral-7B-Instruct-v0.2-GGUF");
  EXPECT_TRUE(r.file.empty() && r.quant.empty() && r.revision.empty() && r.tokenizer_repo.empty());
}

TEST(Reference, SelectorIsFileQuantizationOrRevision) {
  EXPECT_EQ(parsed("a/b:sub/model-Q8_0.gguf").file, "sub/model-Q8_0.gguf");
  EXPECT_EQ(parsed("a/b:Model.GGUF").file, "Model.GGUF");
  EXPECT_EQ(parsed("a/b:q4_k_m").quant, "Q4_K_M");
  EXPECT_EQ(parsed("a/b:fp16").quant, "F16");
  EXPECT_EQ(parsed("a/b:ud-q4_k_xl").quant, "UD-Q4_K_XL");
  EXPECT_EQ(parsed("TheBloke/Mistral-7B-Instruct-v0.2-GPTQ:gptq-4bit-32g-actorder_True").revision,
            "gptq-4bit-32g-actorder_True");
  EXPECT_EQ(parsed("a/b:refs/pr/1").revision, "refs/pr/1");
  EXPECT_EQ(parsed("a/b:0123456789abcdef0123456789abcdef01234567").revision.size(), 40U);
  EXPECT_EQ(parsed("a/b:q4_k_medium").revision, "q4_k_medium");
}

TEST(Reference, TokenizerRepo) {
  const auto r = parsed("a/b:Q8_0@mistralai/Mistral-7B-Instruct-v0.2");
  EXPECT_EQ(r.quant, "Q8_0");
  EXPECT_EQ(r.tokenizer_repo, "mistralai/Mistral-7B-Instruct-v0.2");
  EXPECT_EQ(parsed("a/b@c/d").repo, "a/b");
  EXPECT_EQ(parsed("a/b@c/d").tokenizer_repo, "c/d");
}

TEST(Reference, PathsAndTheGuide) {
  EXPECT_EQ(parsed("quern/guide").kind, Kind::guide);
  for (const char* path : {"model.gguf", "./a/b", "/models/x", "../x/y", "~/m.gguf", "deep/er/model.gguf",
                           "folder/model.gguf", "folder"})
    EXPECT_EQ(parsed(path).kind, Kind::path) << path;
}

TEST(Reference, MistakesSayWhatIsWrong) {
  const auto message = [](std::string_view text) {
    const auto r = parse_reference(text);
    EXPECT_FALSE(r.has_value()) << text;
    return r ? std::string() : r.error().message;
  };
  EXPECT_NE(message("").find("empty"), std::string::npos);
  EXPECT_NE(message("a/b:").find("behind ':'"), std::string::npos);
  EXPECT_NE(message("a/b c").find("letters, digits"), std::string::npos);
  EXPECT_NE(message("a--x/b").find("'--'"), std::string::npos);
  EXPECT_NE(message("a/b@tokenizer").find("owner/repo"), std::string::npos);
  EXPECT_NE(message("a/b:../../x.gguf").find("inside the repo"), std::string::npos);
  EXPECT_NE(message("a/b:x/../../y").find("'..'"), std::string::npos);
  EXPECT_NE(message("a/b:.hidden").find("begins with '.'"), std::string::npos);
  EXPECT_NE(message(std::string("a/") + std::string(200, 'x')).find("96"), std::string::npos);
  EXPECT_NE(message(std::string("a/b\0c", 5)).find("NUL"), std::string::npos);
}

TEST(Quantization, OfFileNames) {
  EXPECT_EQ(quantization_of_file("mistral-7b-instruct-v0.2.Q4_K_M.gguf"), "Q4_K_M");
  EXPECT_EQ(quantization_of_file("Phi-3-mini-4k-instruct-q4.gguf"), "Q4");
  EXPECT_EQ(quantization_of_file("Phi-3-mini-4k-instruct-fp16.gguf"), "F16");
  EXPECT_EQ(quantization_of_file("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf"), "Q4_K_M");
  EXPECT_EQ(quantization_of_file("Q8_0/model-00001-of-00002.gguf"), "Q8_0");
  EXPECT_EQ(quantization_of_file("x-UD-Q4_K_XL.gguf"), "UD-Q4_K_XL");
  EXPECT_EQ(quantization_of_file("x.IQ2_XXS.gguf"), "IQ2_XXS");
  EXPECT_EQ(quantization_of_file("gpt-oss-20b-mxfp4.gguf"), "MXFP4");
  EXPECT_EQ(quantization_of_file("llama3_q8_0_fixed.gguf"), "Q8_0");
  EXPECT_EQ(quantization_of_file("ggml-model-Q4_0_4_4.gguf"), "Q4_0_4_4");
  EXPECT_EQ(quantization_of_file("gemma-2b-it.gguf"), "");
  EXPECT_EQ(quantization_of_file("faq4.gguf"), "");
}

}  // namespace
}  // namespace quern
