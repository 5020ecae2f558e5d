// The checkpoint that a random model (random_model.h, GGUF's names and row order) would have been converted
// from, written by hand: nothing here looks at ArchSpec.
#pragma once

#include <nlohmann/json.hpp>

#include "formats/safetensors_for_test.h"
#include "models/random_model.h"

namespace quern::testing {

inline std::string hf_name(const std::string& arch, const std::string& gguf) {
  static const std::map<std::string, std::string> names = {{"attn_norm.", "input_layernorm."},
                                                           {"attn_q.", "self_attn.q_proj."},
                                                           {"attn_k.", "self_attn.k_proj."},
                                                           {"attn_v.", "self_attn.v_proj."},
                                                           {"attn_qkv.", "self_attn.qkv_proj."},
                                                           {"attn_output.", "self_attn.o_proj."},
                                                           {"attn_q_norm.", "self_attn.q_norm."},
                                                           {"attn_k_norm.", "self_attn.k_norm."},
                                                           {"ffn_norm.", "post_attention_layernorm."},
                                                           {"ffn_gate.", "mlp.gate_proj."},
                                                           {"ffn_down.", "mlp.down_proj."},
                                                           {"ffn_gate_inp.", "block_sparse_moe.gate."}};
  if (gguf == "token_embd.weight") return "model.embed_tokens.weight";
  if (gguf == "output_norm.weight") return "model.norm.weight";
  if (gguf == "output.weight") return "lm_head.weight";
  // blk.3.ffn_up.7.weight
  const size_t layer_end = gguf.find('.', 4);
  const std::string layer = gguf.substr(4, layer_end - 4), rest = gguf.substr(layer_end + 1);
  const std::string prefix = "model.layers." + layer + ".";
  const size_t dot = rest.find('.') + 1;
  const std::string kind = rest.substr(0, dot), tail = rest.substr(dot);
  if (tail.front() >= '0' && tail.front() <= '9') {
    const std::string part = kind == "ffn_gate." ? "w1" : kind == "ffn_up." ? "w3" : "w2";
    return prefix + "block_sparse_moe.experts." + tail.substr(0, tail.find('.')) + "." + part + ".weight";
  }
  if (kind == "ffn_up.") return prefix + (arch == "phi3" ? "mlp.gate_up_proj." : "mlp.up_proj.") + tail;
  return prefix + names.at(kind) + tail;
}

/// Rows of heads with the pairs of rope side by side → first halves, then second halves.
inline std::vector<std::byte> split_pairs(const RawTensor& tensor, int64_t head_dim) {
  const int64_t rows = *std::ranges::find_if(tensor.shape, [](int64_t n) { return n != 1; });
  const auto row = tensor.data.size() / static_cast<size_t>(rows);
  std::vector<std::byte> out(tensor.data.size());
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t j = r % head_dim;
    const int64_t to = r - j + (j % 2 == 0 ? j / 2 : head_dim / 2 + j / 2);
    std::memcpy(out.data() + static_cast<size_t>(to) * row, tensor.data.data() + static_cast<size_t>(r) * row,
                row);
  }
  return out;
}

inline nlohmann::ordered_json hf_config(const ModelSpec& s) {
  const std::string cls = s.arch == "phi3"    ? "Phi3ForCausalLM"
                          : s.arch == "qwen2" ? "Qwen2ForCausalLM"
                          : s.arch == "qwen3" ? "Qwen3ForCausalLM"
                          : s.experts > 0     ? "MixtralForCausalLM"
                          : s.window > 0      ? "MistralForCausalLM"
                                              : "LlamaForCausalLM";
  nlohmann::ordered_json c = {{"architectures", {cls}},         {"hidden_size", s.dim},
                              {"intermediate_size", s.ffn},     {"num_hidden_layers", s.layers},
                              {"num_attention_heads", s.heads}, {"num_key_value_heads", s.kv_heads},
                              {"hidden_act", "silu"},           {"max_position_embeddings", s.context},
                              {"rms_norm_eps", 1e-5},           {"rope_theta", 10000.0},
                              {"rope_scaling", nullptr},        {"tie_word_embeddings", s.tied},
                              {"vocab_size", s.vocab}};
  if (s.head_dim * s.heads != s.dim || s.arch == "qwen3") c["head_dim"] = s.head_dim;
  if (s.biases && s.arch == "llama") c["attention_bias"] = true;
  if (s.window > 0) c["sliding_window"] = s.window;
  if (s.experts > 0) {
    c["num_local_experts"] = s.experts;
    c["num_experts_per_tok"] = s.experts_used;
  }
  return c;
}

inline std::string hf_dtype(DType dtype) {
  return dtype == DType::F32 ? "F32" : dtype == DType::F16 ? "F16" : "BF16";
}

/// How the files are cut.
enum class Shards { one, one_each, scattered, skewed };

inline void write_weights(const TestFolder& folder, const MemorySource& source, const ModelSpec& s,
                          Shards shards) {
  std::vector<SafetensorsBuilder> files(1);
  nlohmann::json map = nlohmann::json::object();
  const auto tensors = source.tensors();
  const auto file_name = [](size_t i) { return "part-" + std::to_string(i) + ".safetensors"; };
  if (shards == Shards::scattered) files.resize(4);  // the last stays empty
  for (size_t i = 0; i < tensors.size(); ++i) {
    const RawTensor& t = tensors[i];
    size_t file = 0;
    if (shards == Shards::scattered) file = i * 7 % 3;
    if (shards == Shards::one_each) {
      file = i;
      files.resize(i + 1);
    }
    const bool turned = s.arch == "llama" && (t.name.find("attn_q.") != std::string::npos ||
                                              t.name.find("attn_k.") != std::string::npos);
    const auto split = turned ? split_pairs(t, s.head_dim) : std::vector<std::byte>();
    const std::string name = hf_name(s.arch, t.name);
    files[file].add(name, hf_dtype(t.dtype), t.shape, turned ? std::span<const std::byte>(split) : t.data);
    map[name] = file_name(file);
  }
  if (shards == Shards::one || shards == Shards::skewed) {
    // What old checkpoints have beside weights.
    files[0].add("model.layers.0.self_attn.rotary_emb.inv_freq", "F64", {8}, std::string(64, '\7'));
    folder.write("model.safetensors", files[0].str(shards == Shards::skewed ? 1 : 0));
    return;
  }
  for (size_t i = 0; i < files.size(); ++i) folder.write(file_name(i), files[i].str());
  folder.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
}

inline void write_checkpoint(const TestFolder& folder, const MemorySource& source, const ModelSpec& spec,
                             const nlohmann::ordered_json& config, Shards shards = Shards::one) {
  folder.write("config.json", config.dump(2));
  write_weights(folder, source, spec, shards);
}

}  // namespace quern::testing
