// GPTQ modules in safetensors files, for tests: what grouped_for_test.h packs, under the names and shapes
// that checkpoints have.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <map>

#include "formats/safetensors_for_test.h"
#include "quant/grouped_for_test.h"

namespace quern::testing {

struct ModuleTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;

  template <class T>
  void set(const std::vector<T>& values) {
    bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
};
/// By the last part of the name: "qweight".
using ModuleTensors = std::map<std::string, ModuleTensor>;

inline ModuleTensors module_tensors(const GroupedParts& p) {
  ModuleTensors out;
  out["qweight"] = {"I32", {p.cols * p.spec.bits / 32, p.rows}, ""};
  out["qweight"].set(p.qweight);
  out["qzeros"] = {"I32", {p.groups, p.rows * p.spec.bits / 32}, ""};
  out["qzeros"].set(p.qzeros);
  out["scales"] = {p.spec.scale_type == DType::F32    ? "F32"
                   : p.spec.scale_type == DType::BF16 ? "BF16"
                                                      : "F16",
                   {p.groups, p.rows},
                   ""};
  out["scales"].set(p.scales);
  if (p.g_idx.empty()) return out;
  out["g_idx"] = {"I32", {p.cols}, ""};
  out["g_idx"].set(p.g_idx);
  return out;
}

inline void add_gptq_module(SafetensorsBuilder& file, const std::string& module, const GroupedParts& parts) {
  for (const auto& [name, t] : module_tensors(parts))
    file.add(fmt::format("{}.{}", module, name), t.dtype, t.shape, t.bytes);
}

/// Fields of a configuration: `"bits":4,"group_size":128,…`
inline std::string gptq_fields(const GroupedSpec& spec) {
  const bool ordered = spec.order == GroupOrder::none || spec.order == GroupOrder::in_order;
  return "\"bits\":" + std::to_string(spec.bits) + ",\"group_size\":" + std::to_string(spec.group_size) +
         ",\"sym\":" + (spec.symmetric ? "true" : "false") + ",\"desc_act\":" + (ordered ? "false" : "true") +
         (spec.v2 ? ",\"checkpoint_format\":\"gptq_v2\"" : "");
}

}  // namespace quern::testing
