#include "make_model/recipe.h"

#include <algorithm>
#include <cctype>

namespace quern::make_model {
namespace {

struct FileType {
  std::string_view name;
  int64_t number;
};
// llama.cpp's llama_ftype. Q8_1 and Q8_K have none; their files say "mostly Q8_0".
constexpr FileType kFileTypes[] = {
    {"F32", 0},  {"F16", 1},     {"BF16", 32},   {"Q4_0", 2},    {"Q4_1", 3},   {"Q5_0", 8},  {"Q5_1", 9},
    {"Q8_0", 7}, {"Q8_1", 7},    {"Q2_K", 10},   {"Q3_K", 11},   {"Q4_K", 14},  {"Q5_K", 16}, {"Q6_K", 18},
    {"Q8_K", 7}, {"Q4_K_S", 14}, {"Q4_K_M", 15}, {"Q5_K_S", 16}, {"Q5_K_M", 17}};

/// The first and the last eighth of the layers, and every third between.
bool use_more_bits(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

DType fallback(DType type, int64_t cols) {
  if (cols % find_quant(type)->block == 0) return type;
  switch (type) {
    case DType::Q2_K:
    case DType::Q3_K:
      type = DType::Q4_0;
      break;
    case DType::Q4_K:
      type = DType::Q5_0;
      break;
    case DType::Q5_K:
      type = DType::Q5_1;
      break;
    case DType::Q6_K:
    case DType::Q8_K:
      type = DType::Q8_0;
      break;
    default:
      break;
  }
  return cols % find_quant(type)->block == 0 ? type : DType::F16;
}

int64_t layer_of(std::string_view name) {
  return name.starts_with("blk.") ? std::atoll(std::string(name.substr(4)).c_str()) : 0;
}

}  // namespace

Result<Recipe> Recipe::parse(std::string_view text) {
  std::string name(text);
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  Recipe recipe;
  std::string_view base = name;
  if (name == "Q4_K_S" || name == "Q5_K_S" || name == "Q4_K_M" || name == "Q5_K_M") {
    recipe.mix = name.back() == 'S' ? Mix::small : Mix::medium;
    base.remove_suffix(2);
  }
  const QuantInfo* info = find_quant(base);
  if (info == nullptr)
    return fail(ErrorCode::invalid_argument,
                "--type {}: not a type; allowed are Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M and single types", text);
  recipe.base = info->dtype;
  const std::string_view wanted = recipe.mix == Mix::none ? info->name : std::string_view(name);
  for (const FileType& type : kFileTypes) {
    if (type.name == wanted) recipe.file_type = type.number;
  }
  return recipe;
}

std::vector<DType> Recipe::types(const Shape& shape, const std::vector<Tensor>& tensors) const {
  const bool tied =
      std::none_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.name == "output.weight"; });
  const bool medium = mix == Mix::medium;
  const DType above = base == DType::Q4_K ? DType::Q5_K : DType::Q6_K;
  const auto mixed = [&](const Tensor& tensor) {
    const std::string_view name = tensor.name;
    const int64_t layer = layer_of(name);
    const bool more = use_more_bits(layer, shape.layers);
    if (name == "output.weight" || (tied && name == "token_embd.weight")) return DType::Q6_K;
    if (name.find("attn_v.") != name.npos || name.find("attn_k.") != name.npos) {
      if (shape.extras.experts == 8) return DType::Q8_0;
      if (name.find("attn_k.") != name.npos) return base;
      if (medium && more) return DType::Q6_K;
      return !medium && base == DType::Q4_K && layer < 4 ? DType::Q5_K : base;
    }
    if (name.find("ffn_down") != name.npos) {
      if (medium && more) return DType::Q6_K;
      return !medium && base == DType::Q4_K && layer < shape.layers / 8 ? DType::Q5_K : base;
    }
    if (name.find("attn_qkv") != name.npos && medium) return above;
    if (name.find("attn_output") != name.npos && shape.extras.experts == 8 && base == DType::Q4_K)
      return DType::Q5_K;
    return base;
  };
  std::vector<DType> types;
  for (const Tensor& tensor : tensors) {
    if (tensor.values != Values::matrix)
      types.push_back(DType::F32);
    else
      types.push_back(fallback(mix == Mix::none ? base : mixed(tensor), tensor.shape.back()));
  }
  return types;
}

}  // namespace quern::make_model
