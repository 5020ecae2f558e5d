#include "make_model/make_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "formats/gguf.h"

namespace quern::make_model {
namespace {

class MakeModel : public testing::Test {
 protected:
  MakeModel() : folder_(testing::TempDir() + fmt::format("quern-make-model-{}", getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~MakeModel() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<WeightSource> make(Options options) {
    options.out = (folder_ / "m.gguf").string();
    const auto made = make_model(options);
    EXPECT_TRUE(made) << made.error().message;
    if (!made) return nullptr;
    auto source = open_gguf(std::filesystem::path(options.out));
    EXPECT_TRUE(source) << source.error().message;
    if (!source) return nullptr;
    EXPECT_EQ(made->bytes, (*source)->bytes());
    return std::move(*source);
  }
  std::filesystem::path folder_;
};

std::vector<float> values_of(const RawTensor& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.elements()));
  decode_rows(tensor, 0, tensor.rows(), out.data());
  return out;
}

TEST_F(MakeModel, EverySmallShapeInEveryMix) {
  for (const Shape& shape : shapes()) {
    if (shape.dim > 1024) continue;
    for (const char* type : {"Q8_0", "q4_k_m"}) {
      const auto source =
          make({.shape = std::string(shape.name), .type = type, .vocabulary_size = 500, .layers = 1});
      ASSERT_NE(source, nullptr) << shape.name;
      EXPECT_EQ(source->metadata().strings("tokenizer.ggml.tokens")->size(),
                static_cast<size_t>(source->find("token_embd.weight")->rows()));
    }
  }
}

// The types that llama-quantize gives to a 22-layer Llama.
TEST_F(MakeModel, MixesAreLlamaCpps) {
  Shape shape = *find_shape("tiny");
  shape.layers = 22;
  const auto tensors = tensors_of(shape, {.vocabulary = 512});
  const auto types = Recipe::parse("q4_k_m")->types(shape, tensors);
  std::string v, down;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    const char c = types[i] == DType::Q6_K ? '6' : types[i] == DType::Q4_K ? '4' : '?';
    if (name.ends_with("attn_v.weight")) v += c;
    if (name.ends_with("ffn_down.weight")) down += c;
    if (name == "output.weight") {
      EXPECT_EQ(c, '6');
    }
    if (name == "token_embd.weight" || name.ends_with("attn_q.weight")) {
      EXPECT_EQ(c, '4');
    }
    if (name.ends_with("norm.weight")) {
      EXPECT_EQ(types[i], DType::F32);
    }
  }
  EXPECT_EQ(v, "6644644644644644644666");
  EXPECT_EQ(down, v);
}

TEST_F(MakeModel, RowsThatAreNoWholeBlocksFallBack) {
  const auto source = make({.shape = "odd-tiny", .type = "Q4_K_M", .layers = 1});
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->find("blk.0.attn_q.weight")->dtype, DType::Q5_0);
  EXPECT_EQ(source->find("output.weight")->dtype, DType::Q8_0);
  EXPECT_EQ(source->find("blk.0.ffn_down.weight")->dtype, DType::F16);
}

TEST_F(MakeModel, NumbersHaveTheirScaleAndDoNotDependOnTheType) {
  const auto exact = make({.shape = "tiny", .type = "F32", .distinct = true, .scale = 2});
  const auto w = values_of(*exact->find("blk.1.ffn_down.weight"));
  double sum = 0, squares = 0;
  for (const float x : w) {
    sum += x;
    squares += static_cast<double>(x) * x;
  }
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(w.size())) * std::sqrt(768.0), 2, 0.02);
  EXPECT_NEAR(sum / static_cast<double>(w.size()), 0, 0.001);
  EXPECT_NE(w, values_of(*exact->find("blk.2.ffn_down.weight")));
  const auto rounded = make({.shape = "tiny", .type = "Q8_0", .distinct = true, .scale = 2});
  const auto near = values_of(*rounded->find("blk.1.ffn_down.weight"));
  for (size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(w[i], near[i], 0.002);
}

TEST_F(MakeModel, ExpertsHoldTheSameNumbersStackedAndApart) {
  const auto stacked = make({.shape = "mixtral-tiny", .type = "F32", .layers = 2});
  const auto all = values_of(*stacked->find("blk.1.ffn_up_exps.weight"));
  const auto apart = make({.shape = "mixtral-old-tiny", .type = "F32", .layers = 2});
  const auto third = values_of(*apart->find("blk.1.ffn_up.3.weight"));
  EXPECT_TRUE(std::equal(third.begin(), third.end(), all.begin() + 3 * static_cast<ptrdiff_t>(third.size())));
}

TEST_F(MakeModel, OldFilesAreOld) {
  const auto source =
      make({.shape = "phi3-tiny", .type = "Q4_0", .vocabulary_size = 400, .layers = 1, .old = true});
  ASSERT_NE(source, nullptr);
  for (const char* key : {"tokenizer.ggml.pre", "tokenizer.chat_template", "phi3.rope.freq_base",
                          "phi3.attention.head_count_kv", "phi3.vocab_size"})
    EXPECT_FALSE(source->metadata().contains(key)) << key;
  std::ifstream file(folder_ / "m.gguf", std::ios::binary);
  char start[8];
  file.read(start, sizeof(start));
  EXPECT_EQ(start[4], 2);
}

TEST_F(MakeModel, RefusesWhatItDoesNotKnow) {
  EXPECT_FALSE(make_model({.shape = "huge", .out = "x"}));
  EXPECT_FALSE(make_model({.shape = "nano", .out = "x", .type = "Q4_K_L"}));
  EXPECT_FALSE(make_model({.shape = "nano", .out = "x", .vocabulary_size = 10}));
  EXPECT_FALSE(make_model({.shape = "nano", .out = "x", .layers = 0}));
}

}  // namespace
}  // namespace quern::make_model
