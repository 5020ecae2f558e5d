// Which type each tensor of a model gets: llama-quantize's named mixes, one type for all, or one type with
// embeddings and head promoted.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/result.h"
#include "quant/quant.h"

namespace quern {

struct Recipe {
  enum class Style : uint8_t {
    mix,       // as llama-quantize: important tensors get more bits
    single,    // one type for all
    promoted,  // one type; embeddings and head get Q6_K (Q8_0 above four bits)
  };
  std::string_view name;  // as it is written: "Q4_K_M"
  DType base;
  Style style = Style::mix;
  int file_type;  // general.file_type: llama.cpp's number; its nearest for types it has none for
};

/// llama-quantize's recipes: F32 F16 BF16 Q4_0 … Q8_0 Q2_K Q2_K_S Q3_K_S/M/L Q4_K_S/M Q5_K_S/M Q6_K, and its
/// Q3_K, Q4_K and Q5_K, which are the _M. What is a type but no recipe (Q8_1, Q8_K) is that type for all. Any
/// case. An error lists the names.
Result<Recipe> find_recipe(std::string_view name);
/// One type for all matrices: `quantize --pure`.
Recipe single_recipe(const QuantInfo& type);
/// LLM_ISQ_TYPE.
Recipe promoted_recipe(const QuantInfo& type);

/// What the mixes look at.
struct RecipeModel {
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t experts = 0;      // 0: none
  bool tied = false;        // no output.weight: token_embd.weight is the head too
  bool importance = false;  // an importance matrix is used
};

/// The type of one tensor.
struct TypeChoice {
  DType asked = DType::F32;  // the recipe's type
  DType used = DType::F32;   // always known to find_quant, and rows divide into its blocks
  std::string why;           // where they differ: a few words; else empty
};

/// `name` as in GGUF ("blk.7.attn_v.weight"), `shape` outermost dimension first. What is no matrix, norms and
/// routers of experts are F32.
TypeChoice choose_type(const Recipe& recipe, const RecipeModel& model, std::string_view name,
                       std::span<const int64_t> shape);

}  // namespace quern
