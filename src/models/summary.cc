#include "models/summary.h"

#include <algorithm>

#include "quant/quant.h"

namespace quern {
namespace {

// general.file_type, numbered as llama.cpp's llama_ftype: the recipe, and the type that gives it its name.
struct Recipe {
  uint64_t file_type;
  std::string_view name;
  DType type;
};
constexpr Recipe recipes[] = {
    {0, "F32", DType::F32},      {1, "F16", DType::F16},      {2, "Q4_0", DType::Q4_0},
    {3, "Q4_1", DType::Q4_1},    {7, "Q8_0", DType::Q8_0},    {8, "Q5_0", DType::Q5_0},
    {9, "Q5_1", DType::Q5_1},    {10, "Q2_K", DType::Q2_K},   {11, "Q3_K_S", DType::Q3_K},
    {12, "Q3_K_M", DType::Q3_K}, {13, "Q3_K_L", DType::Q3_K}, {14, "Q4_K_S", DType::Q4_K},
    {15, "Q4_K_M", DType::Q4_K}, {16, "Q5_K_S", DType::Q5_K}, {17, "Q5_K_M", DType::Q5_K},
    {18, "Q6_K", DType::Q6_K},   {21, "Q2_K_S", DType::Q2_K}, {32, "BF16", DType::BF16},
};

std::vector<ModelSummary::Type> histogram(const WeightSource& source) {
  std::vector<ModelSummary::Type> types;
  for (const RawTensor& tensor : source.tensors()) {
    const std::string name = type_name(tensor);
    auto it = std::ranges::find(types, name, &ModelSummary::Type::name);
    if (it == types.end()) it = types.insert(types.end(), {tensor.dtype, name});
    it->tensors += 1;
    it->parameters += tensor.elements();
    it->bytes += stored_bytes(tensor);
  }
  std::ranges::sort(types, std::greater<>(), &ModelSummary::Type::bytes);
  return types;
}

}  // namespace

std::string quantization_name(const WeightSource& source) {
  const auto types = histogram(source);
  if (types.empty()) return "none";
  // Some writers leave a wrong file type behind: it counts only when the file has weights of that type.
  if (const auto file_type = source.metadata().uint("general.file_type")) {
    for (const Recipe& recipe : recipes) {
      if (recipe.file_type == *file_type &&
          std::ranges::find(types, recipe.type, &ModelSummary::Type::dtype) != types.end() &&
          (recipe.type != DType::F32 || types.front().dtype == DType::F32))
        return std::string(recipe.name);
    }
  }
  const auto most = std::ranges::max_element(types, {}, &ModelSummary::Type::parameters);
  return most->name;
}

ModelSummary summarize_model(const WeightSource& source) {
  ModelSummary s;
  if (const auto* architecture = source.metadata().string("general.architecture"))
    s.architecture = *architecture;
  if (const auto* name = source.metadata().string("general.name")) s.name = *name;
  s.quantization = quantization_name(source);
  s.types = histogram(source);
  for (const ModelSummary::Type& type : s.types) s.parameters += type.parameters;
  s.bytes = source.bytes();
  if (s.parameters > 0)
    s.bits_per_weight = 8.0 * static_cast<double>(s.bytes) / static_cast<double>(s.parameters);
  if (auto config = read_model_config(source)) {
    s.config = *std::move(config);
    s.kv_bytes_per_token =
        static_cast<uint64_t>(s.config->layers * s.config->kv_heads * s.config->head_dim) * 4;
  } else {
    s.problem = config.error().message;
  }
  return s;
}

}  // namespace quern
