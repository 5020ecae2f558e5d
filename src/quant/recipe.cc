#include "quant/recipe.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>

namespace quern {
namespace {

using Style = Recipe::Style;

// The numbers are llama.cpp's llama_ftype.
constexpr Recipe kMixes[] = {{"F32", DType::F32, Style::mix, 0},      {"F16", DType::F16, Style::mix, 1},
                             {"BF16", DType::BF16, Style::mix, 32},   {"Q4_0", DType::Q4_0, Style::mix, 2},
                             {"Q4_1", DType::Q4_1, Style::mix, 3},    {"Q5_0", DType::Q5_0, Style::mix, 8},
                             {"Q5_1", DType::Q5_1, Style::mix, 9},    {"Q8_0", DType::Q8_0, Style::mix, 7},
                             {"Q2_K", DType::Q2_K, Style::mix, 10},   {"Q2_K_S", DType::Q2_K, Style::mix, 21},
                             {"Q3_K_S", DType::Q3_K, Style::mix, 11}, {"Q3_K_M", DType::Q3_K, Style::mix, 12},
                             {"Q3_K_L", DType::Q3_K, Style::mix, 13}, {"Q4_K_S", DType::Q4_K, Style::mix, 14},
                             {"Q4_K_M", DType::Q4_K, Style::mix, 15}, {"Q5_K_S", DType::Q5_K, Style::mix, 16},
                             {"Q5_K_M", DType::Q5_K, Style::mix, 17}, {"Q6_K", DType::Q6_K, Style::mix, 18}};

/// Files of one type say "mostly" what llama.cpp calls the smallest mix of it; it has no stored Q8_1 and
/// Q8_K.
int file_type_of(DType type) {
  if (type == DType::Q8_1 || type == DType::Q8_K) type = DType::Q8_0;
  for (const Recipe& mix : kMixes) {
    if (mix.base == type) return mix.file_type;
  }
  return 0;
}

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

// What a tensor is, from its name.

bool has(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

bool stays_full(std::string_view name, std::span<const int64_t> shape) {
  return shape.size() < 2 || !name.ends_with("weight") || has(name, "_norm.weight") ||
         has(name, "ffn_gate_inp.weight");
}

int64_t layer_of(std::string_view name) {
  int64_t layer = 0;
  if (name.starts_with("blk.")) std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  return layer;
}

/// The first and the last eighth of the layers, and every third between.
bool use_more_bits(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

struct Rule {
  DType type;
  std::string_view why;
};

Rule head_rule(const Recipe& r, int64_t cols) {
  if (cols % find_quant(r.base)->block != 0) return {DType::Q8_0, "output head"};
  return {r.base == DType::Q8_0 ? DType::Q8_0 : DType::Q6_K, "output head"};
}

Rule attention_v_rule(const Recipe& r, const RecipeModel& m, int64_t layer) {
  const bool shared = m.kv_heads > 0 && m.heads / m.kv_heads >= 4;
  Rule rule{r.base, "attn_v"};
  if (r.name == "Q2_K") {
    rule.type = shared ? DType::Q4_K : DType::Q3_K;
  } else if (r.name == "Q2_K_S") {
    if (shared) rule.type = DType::Q4_K;
  } else if (r.name == "Q3_K_M") {
    rule.type = layer < 2 ? DType::Q5_K : DType::Q4_K;
  } else if (r.name == "Q3_K_L") {
    rule.type = DType::Q5_K;
  } else if ((r.name == "Q4_K_M" || r.name == "Q5_K_M") && use_more_bits(layer, m.layers)) {
    rule = {DType::Q6_K, "attn_v of the outer and every third layer"};
  } else if (r.name == "Q4_K_S" && layer < 4) {
    rule = {DType::Q5_K, "attn_v of the first four layers"};
  }
  // The shape of the 70B models: attn_v is small there.
  if (m.layers == 80 && m.heads != m.kv_heads && (rule.type == DType::Q3_K || rule.type == DType::Q4_K))
    rule = {DType::Q5_K, "attn_v of 80 layers"};
  if (m.experts == 8) rule = {DType::Q8_0, "attn_v beside 8 experts"};
  return rule;
}

Rule ffn_down_rule(const Recipe& r, const RecipeModel& m, int64_t layer) {
  const bool first_eighth = layer < m.layers / 8;
  if (r.name == "Q2_K") return {DType::Q3_K, "ffn_down"};
  if (r.name == "Q2_K_S" && first_eighth) return {DType::Q4_K, "ffn_down of the first layers"};
  if (r.name == "Q3_K_M") return {layer < m.layers / 16 ? DType::Q5_K : DType::Q4_K, "ffn_down"};
  if (r.name == "Q3_K_L") return {DType::Q5_K, "ffn_down"};
  if ((r.name == "Q4_K_M" || r.name == "Q5_K_M") && use_more_bits(layer, m.layers))
    return {DType::Q6_K, "ffn_down of the outer and every third layer"};
  if (r.name == "Q4_K_S" && first_eighth) return {DType::Q5_K, "ffn_down of the first layers"};
  if (m.importance && first_eighth && r.name == "Q4_0") return {DType::Q4_1, "ffn_down of the first layers"};
  if (m.importance && first_eighth && r.name == "Q5_0") return {DType::Q5_1, "ffn_down of the first layers"};
  return {r.base, ""};
}

Rule attention_output_rule(const Recipe& r, const RecipeModel& m) {
  if (m.experts == 8) {
    const bool small = r.name == "Q2_K" || r.name == "Q3_K_S" || r.name == "Q3_K_M" || r.base == DType::Q4_K;
    return {small ? DType::Q5_K : r.base, "attn_output beside 8 experts"};
  }
  if (r.name == "Q2_K") return {DType::Q3_K, "attn_output"};
  if (r.name == "Q3_K_M") return {DType::Q4_K, "attn_output"};
  if (r.name == "Q3_K_L") return {DType::Q5_K, "attn_output"};
  return {r.base, ""};
}

Rule mix_rule(const Recipe& r, const RecipeModel& m, std::string_view name, int64_t cols) {
  const int64_t layer = layer_of(name);
  if (name == "output.weight" || (m.tied && name == "token_embd.weight")) return head_rule(r, cols);
  if (name == "token_embd.weight") return {r.base, ""};
  if (has(name, "attn_v.") || has(name, "attn_qkv.")) return attention_v_rule(r, m, layer);
  if (has(name, "attn_k.") && m.experts == 8) return {DType::Q8_0, "attn_k beside 8 experts"};
  if (has(name, "ffn_down")) return ffn_down_rule(r, m, layer);
  if (has(name, "attn_output.")) return attention_output_rule(r, m);
  return {r.base, ""};
}

Rule promoted_rule(const Recipe& r, std::string_view name) {
  if (name != "output.weight" && name != "token_embd.weight") return {r.base, ""};
  const std::string_view why = name == "output.weight" ? "output head" : "embeddings";
  return {find_quant(r.base)->affine.bits <= 4 ? DType::Q6_K : DType::Q8_0, why};
}

/// What llama.cpp takes when a row is not a whole number of blocks.
DType fallback(DType type, int64_t cols) {
  const auto fits = [&](DType t) { return cols % find_quant(t)->block == 0; };
  if (fits(type)) return type;
  DType smaller = DType::F16;
  if (type == DType::Q2_K || type == DType::Q3_K) smaller = DType::Q4_0;
  if (type == DType::Q4_K) smaller = DType::Q5_0;
  if (type == DType::Q5_K) smaller = DType::Q5_1;
  if (type == DType::Q6_K || type == DType::Q8_K) smaller = DType::Q8_0;
  return fits(smaller) ? smaller : DType::F16;
}

}  // namespace

Result<Recipe> find_recipe(std::string_view text) {
  const std::string name = upper(text);
  for (const Recipe& mix : kMixes) {
    if (mix.name == name) return mix;
  }
  if (const QuantInfo* type = find_quant(text)) {
    const std::string medium = std::string(type->name) + "_M";  // llama-quantize's Q4_K is Q4_K_M
    for (const Recipe& mix : kMixes) {
      if (mix.name == medium) return mix;
    }
    return single_recipe(*type);
  }
  std::string names;
  for (const Recipe& mix : kMixes) names += std::string(mix.name) + ' ';
  return fail(ErrorCode::invalid_argument,
              "{}: no such type; there are the mixes {}(Q3_K, Q4_K and Q5_K are their _M) and the single "
              "types Q8_1 Q8_K; one type "
              "for all is --pure",
              text, names);
}

Recipe single_recipe(const QuantInfo& type) {
  return {type.name, type.dtype, Style::single, file_type_of(type.dtype)};
}

Recipe promoted_recipe(const QuantInfo& type) {
  return {type.name, type.dtype, Style::promoted, file_type_of(type.dtype)};
}

TypeChoice choose_type(const Recipe& recipe, const RecipeModel& model, std::string_view name,
                       std::span<const int64_t> shape) {
  if (recipe.base != DType::F32 && stays_full(name, shape))
    return {recipe.base, DType::F32, "small, and kept in full precision"};
  const bool floating = find_quant(recipe.base)->family == Family::floating;
  Rule rule{recipe.base, ""};
  if (!floating && recipe.style == Style::mix) rule = mix_rule(recipe, model, name, shape.back());
  if (!floating && recipe.style == Style::promoted) rule = promoted_rule(recipe, name);
  TypeChoice choice{recipe.base, fallback(rule.type, shape.empty() ? 1 : shape.back()), ""};
  if (rule.type != recipe.base) choice.why = rule.why;
  if (choice.used != rule.type) {
    if (!choice.why.empty()) choice.why += "; ";
    choice.why +=
        fmt::format("rows of {} do not divide into blocks of {}", shape.back(), find_quant(rule.type)->block);
  }
  return choice;
}

}  // namespace quern
