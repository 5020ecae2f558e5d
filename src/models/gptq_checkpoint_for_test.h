// GPTQ checkpoints of random models, packed by grouped_for_test.h; the model itself gets the weights that the
// packed ones stand for, so that it is the float reference.
#pragma once

#include <optional>

#include "formats/gptq_for_test.h"
#include "models/hf_checkpoint_for_test.h"

namespace quern::testing {

/// How a tensor (GGUF's name) is to be quantized; empty: it stays as it is.
using ChooseGrouped = std::function<std::optional<GroupedSpec>(const std::string&)>;

inline bool is_linear(const std::string& name) {
  return name.starts_with("blk.") && name.ends_with(".weight") && name.find("norm") == std::string::npos &&
         name.find("ffn_gate_inp") == std::string::npos;
}

/// Every linear layer alike.
inline ChooseGrouped all_linear(const GroupedSpec& spec) {
  return [=](const std::string& name) { return is_linear(name) ? std::optional(spec) : std::nullopt; };
}

/// Quantizes in place, and writes the files: a module's tensors in different shards.
class GptqWriter {
 public:
  GptqWriter(MemorySource& source, const ModelSpec& spec) : source_(source), spec_(spec) {}

  void write(const TestFolder& folder, const ChooseGrouped& choose) {
    std::vector<std::string> names;
    for (const RawTensor& tensor : source_.tensors()) names.push_back(tensor.name);
    for (const std::string& name : names) {
      const auto grouped = choose(name);
      const RawTensor tensor = *source_.find(name);
      if (grouped) {
        add_quantized(name, tensor.rows(), tensor.cols(), *grouped);
      } else {
        const auto split = turned(name) ? split_pairs(tensor, spec_.head_dim) : std::vector<std::byte>();
        add(hf_name(spec_.arch, name), hf_dtype(tensor.dtype), tensor.shape,
            turned(name) ? std::span<const std::byte>(split) : tensor.data);
      }
    }
    for (size_t i = 0; i < kShards; ++i) folder.write(file_name(i), files_[i].str(i % 2));
    folder.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map_}}.dump());
  }

  /// One more tensor, as the file has it.
  void add(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
           std::span<const std::byte> bytes) {
    const size_t file = next_++ % kShards;
    files_[file].add(name, dtype, shape, bytes);
    map_[name] = file_name(file);
  }

 private:
  static constexpr size_t kShards = 3;
  static std::string file_name(size_t i) { return "model-" + std::to_string(i) + ".safetensors"; }

  bool turned(const std::string& name) const {
    return spec_.arch == "llama" &&
           (name.find("attn_q.") != std::string::npos || name.find("attn_k.") != std::string::npos);
  }
  /// Where row `r` of the model lies in the checkpoint.
  int64_t hf_row(const std::string& name, int64_t r) const {
    if (!turned(name)) return r;
    const int64_t j = r % spec_.head_dim;
    return r - j + (j % 2 == 0 ? j / 2 : spec_.head_dim / 2 + j / 2);
  }

  void add_quantized(const std::string& name, int64_t rows, int64_t cols, const GroupedSpec& grouped) {
    const auto values = source_.values(name);
    std::vector<float> moved(values.size());
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(values.begin() + r * cols, cols, moved.begin() + hf_row(name, r) * cols);
    // Modules of one input have one order, as q, k and v and gate and up have in real files.
    uint32_t seed = static_cast<uint32_t>(cols);
    for (const char c :
         name.substr(0, name.find('.', 4)) + (name.find("attn_") != std::string::npos ? "a" : "f"))
      seed = seed * 31 + static_cast<unsigned char>(c);
    const GroupedParts parts = grouped_of(grouped, rows, cols, moved, seed);
    std::vector<float> exact(values.size());
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(parts.exact.begin() + hf_row(name, r) * cols, cols, exact.begin() + r * cols);
    source_.add(name, {rows, cols}, exact, DType::F32);
    const std::string hf = hf_name(spec_.arch, name);
    for (const auto& [part, t] : module_tensors(parts))
      add(hf.substr(0, hf.size() - 6) + part, t.dtype, t.shape, std::as_bytes(std::span(t.bytes)));
  }

  MemorySource& source_;
  const ModelSpec& spec_;
  SafetensorsBuilder files_[kShards];
  nlohmann::json map_ = nlohmann::json::object();
  size_t next_ = 0;
};

inline nlohmann::ordered_json gptq_config(const ModelSpec& spec, const GroupedSpec& grouped) {
  auto config = hf_config(spec);
  config["quantization_config"] = nlohmann::ordered_json::parse("{" + gptq_fields(grouped) + "}");
  config["quantization_config"]["quant_method"] = "gptq";
  return config;
}

}  // namespace quern::testing
