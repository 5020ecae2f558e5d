// The choices of the mixes against the types that llama.cpp's own quantizer wrote for models of random
// weights (recipe_types.txt), and the rest of the rules.
#include "quant/recipe.h"

#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <map>
#include <sstream>

#include "core/source_dir.h"

namespace quern {
namespace {

/// What the models of recipe_types.txt look like.
struct Model {
  RecipeModel traits;
  int64_t dim, ffn;
};
const std::map<std::string, Model> kModels = {
    {"tiny16", {{.layers = 16, .heads = 4, .kv_heads = 2}, 256, 768}},
    {"gqa4", {{.layers = 5, .heads = 8, .kv_heads = 2}, 512, 1536}},
    {"qwen2", {{.layers = 6, .heads = 8, .kv_heads = 2}, 512, 1536}},
    {"phi3", {{.layers = 3, .heads = 8, .kv_heads = 8}, 768, 2048}},
    {"mixtral", {{.layers = 2, .heads = 8, .kv_heads = 4, .experts = 8}, 512, 1024}},
    {"odd", {{.layers = 3, .heads = 6, .kv_heads = 2}, 480, 1000}},
    {"tied", {{.layers = 3, .heads = 4, .kv_heads = 2, .tied = true}, 256, 768}},
    {"nano80", {{.layers = 80, .heads = 2, .kv_heads = 1}, 64, 128}},
};

std::vector<int64_t> shape_of(const Model& model, std::string_view kind) {
  const int64_t cols = kind.starts_with("ffn_down") ? model.ffn : model.dim;
  if (kind.ends_with("_exps")) return {model.traits.experts, 128, cols};
  return {128, cols};
}

DType type_named(const std::string& name) {
  const QuantInfo* info = find_quant(name);
  EXPECT_NE(info, nullptr) << name;
  return info->dtype;
}

/// "Q6_K*2,Q4_K": one per layer.
std::vector<DType> types_of(const std::string& runs) {
  std::vector<DType> types;
  std::istringstream in(runs);
  for (std::string run; std::getline(in, run, ',');) {
    const size_t star = run.find('*');
    const int count = star == std::string::npos ? 1 : std::stoi(run.substr(star + 1));
    types.insert(types.end(), static_cast<size_t>(count), type_named(run.substr(0, star)));
  }
  return types;
}

TEST(Recipe, MixesAreLlamaCpps) {
  std::ifstream file(QUERN_SOURCE_DIR "/src/quant/recipe_types.txt");
  ASSERT_TRUE(file.is_open());
  int lines = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream in(line);
    std::string model_name, recipe_name;
    in >> model_name >> recipe_name;
    const Model& model = kModels.at(model_name);
    const auto recipe = find_recipe(recipe_name);
    ASSERT_TRUE(recipe.has_value()) << recipe_name;
    ++lines;
    for (std::string entry; in >> entry;) {
      const std::string kind = entry.substr(0, entry.find('='));
      const auto wanted = types_of(entry.substr(entry.find('=') + 1));
      for (size_t layer = 0; layer < wanted.size(); ++layer) {
        const bool outside = kind == "output" || kind == "token_embd";
        const std::string name = (outside ? "" : "blk." + std::to_string(layer) + ".") + kind + ".weight";
        const TypeChoice choice = choose_type(*recipe, model.traits, name, shape_of(model, kind));
        EXPECT_EQ(dtype_name(choice.used), dtype_name(wanted[layer]))
            << model_name << ' ' << recipe_name << ' ' << name;
        EXPECT_EQ(choice.asked, recipe->base);
        EXPECT_EQ(choice.why.empty(), choice.used == choice.asked) << name << ' ' << choice.why;
      }
    }
  }
  EXPECT_EQ(lines, 40);
}

TEST(Recipe, NamesAreFoundInAnyCase) {
  EXPECT_EQ(find_recipe("q4_k_m")->name, "Q4_K_M");
  EXPECT_EQ(find_recipe("q4_k_m")->file_type, 15);
  for (const auto& [alias, mix] :
       {std::pair("Q3_K", "Q3_K_M"), {"q4_k", "Q4_K_M"}, {"q4k", "Q4_K_M"}, {"Q5_K", "Q5_K_M"}})
    EXPECT_EQ(find_recipe(alias)->name, mix) << "as llama-quantize";
  EXPECT_EQ(find_recipe("Q2_K_S")->file_type, 21);
  EXPECT_EQ(find_recipe("Q8_1")->style, Recipe::Style::single);
  EXPECT_EQ(find_recipe("Q8_1")->base, DType::Q8_1);
  EXPECT_EQ(find_recipe("Q2_K")->style, Recipe::Style::mix);
  for (const char* wrong : {"", "Q4_K_L", "Q7_0", "IQ2_XXS"}) {
    const auto recipe = find_recipe(wrong);
    ASSERT_FALSE(recipe.has_value()) << wrong;
    EXPECT_NE(recipe.error().message.find("Q4_K_M"), std::string::npos);
  }
}

TEST(Recipe, WhatIsNoMatrixStaysF32) {
  const RecipeModel model{.layers = 4, .heads = 4, .kv_heads = 4, .experts = 8};
  const auto used = [&](std::string_view name, std::vector<int64_t> shape) {
    return choose_type(*find_recipe("Q4_K_M"), model, name, shape).used;
  };
  EXPECT_EQ(used("output_norm.weight", {512}), DType::F32);
  EXPECT_EQ(used("blk.0.attn_q.bias", {512}), DType::F32);
  EXPECT_EQ(used("blk.0.ffn_gate_inp.weight", {8, 512}), DType::F32);
  EXPECT_EQ(used("rope_freqs.weight", {32}), DType::F32);
  EXPECT_EQ(used("odd", {}), DType::F32);
  EXPECT_EQ(used("blk.0.ffn_gate_exps.weight", {8, 128, 512}), DType::Q4_K);
}

// Not among recipe_types.txt: llama-quantize wants an importance matrix for it.
TEST(Recipe, SmallQ2K) {
  RecipeModel model{.layers = 16, .heads = 8, .kv_heads = 2};
  const std::array<int64_t, 2> shape = {512, 512};
  const auto used = [&](const char* name) {
    return choose_type(*find_recipe("Q2_K_S"), model, name, shape).used;
  };
  EXPECT_EQ(used("blk.1.ffn_down.weight"), DType::Q4_K);
  EXPECT_EQ(used("blk.2.ffn_down.weight"), DType::Q2_K);
  EXPECT_EQ(used("blk.2.attn_v.weight"), DType::Q4_K);
  EXPECT_EQ(used("blk.2.attn_output.weight"), DType::Q2_K);
  model.kv_heads = 4;
  EXPECT_EQ(used("blk.2.attn_v.weight"), DType::Q2_K);
}

TEST(Recipe, OneTypeForAll) {
  const RecipeModel model{.layers = 4, .heads = 4, .kv_heads = 4};
  const std::array<int64_t, 2> shape = {512, 512}, odd = {512, 96}, odder = {512, 100};
  for (const QuantInfo* type : all_quants()) {
    if (type->family != Family::affine) continue;
    const Recipe single = single_recipe(*type), promoted = promoted_recipe(*type);
    for (const char* name : {"output.weight", "token_embd.weight"}) {
      EXPECT_EQ(choose_type(single, model, name, shape).used, type->dtype);
      EXPECT_EQ(choose_type(promoted, model, name, shape).used,
                type->affine.bits <= 4 ? DType::Q6_K : DType::Q8_0);
    }
    EXPECT_EQ(choose_type(promoted, model, "blk.0.attn_v.weight", shape).used, type->dtype);
    const TypeChoice fallen = choose_type(single, model, "blk.0.ffn_up.weight", odd);
    EXPECT_EQ(find_quant(fallen.used)->block, 32u) << type->name;
    EXPECT_EQ(fallen.why.empty(), type->block == 32) << fallen.why;
    EXPECT_EQ(choose_type(single, model, "blk.0.ffn_up.weight", odder).used, DType::F16);
  }
  EXPECT_EQ(choose_type(single_recipe(*find_quant(DType::Q8_K)), model, "blk.0.ffn_up.weight", odd).used,
            DType::Q8_0);
}

// With an importance matrix llama.cpp gives the first ffn_down of these two more.
TEST(Recipe, ImportanceGuardsTheFirstLayers) {
  RecipeModel model{.layers = 16, .heads = 4, .kv_heads = 4, .importance = true};
  const std::array<int64_t, 2> shape = {512, 512};
  EXPECT_EQ(choose_type(*find_recipe("Q4_0"), model, "blk.1.ffn_down.weight", shape).used, DType::Q4_1);
  EXPECT_EQ(choose_type(*find_recipe("Q4_0"), model, "blk.2.ffn_down.weight", shape).used, DType::Q4_0);
  EXPECT_EQ(choose_type(*find_recipe("Q5_0"), model, "blk.0.ffn_down.weight", shape).used, DType::Q5_1);
}

}  // namespace
}  // namespace quern
