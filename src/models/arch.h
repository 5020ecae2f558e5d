// An architecture as data. Each file arch/<name>.cc defines one `const ArchSpec arch_<name>`; CMake lists the
// files.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"

namespace quern {

/// What a tensor is for. Matrices are [outputs, inputs].
enum class Role : uint8_t {
  token_embd,
  output_norm,
  output,  // absent: the embedding serves as head
  output_bias,
  rope_freqs,          // divisors of the rope frequencies (Llama 3.1)
  rope_factors_long,   // long-rope's, beyond the original context …
  rope_factors_short,  // … and within it
  // once per layer
  attn_norm,
  attn_qkv,
  attn_q,
  attn_k,
  attn_v,
  attn_qkv_bias,
  attn_q_bias,
  attn_k_bias,
  attn_v_bias,
  attn_q_norm,
  attn_k_norm,
  attn_out,
  attn_out_bias,
  ffn_norm,
  ffn_gate_up,  // rows: gate, then up
  ffn_gate,
  ffn_up,
  ffn_down,
  ffn_gate_bias,
  ffn_up_bias,
  ffn_down_bias,
  router,
  experts_gate,  // stacks of all experts …
  experts_up,
  experts_down,
  expert_gate,  // … or one tensor per layer and expert
  expert_up,
  expert_down,
};

inline bool is_per_layer(Role role) { return role >= Role::attn_norm; }
/// One tensor for each layer and expert.
inline bool is_per_expert(Role role) { return role >= Role::expert_gate; }

/// A role's name in both worlds: the first {} is the layer, the second the expert. "" where a world has none.
struct TensorName {
  Role role;
  std::string_view gguf;
  std::string_view hf;
  bool optional = false;  // if a layer has it, all layers must
};

/// When the attention of a Hugging Face class looks no further back than `sliding_window`.
enum class HfWindow : uint8_t {
  never,        // the class does not read the key
  where_set,    // null: no window
  if_switched,  // where use_sliding_window is true; from layer max_window_layers on
};

/// Which projections of the attention have biases.
enum class HfBias : uint8_t {
  by_key,  // all four where attention_bias is true, else none
  qkv,     // always Q, K and V
  none,
};

/// One of `architectures` in config.json: what it makes of the keys, and what it takes where one is absent
/// (transformers: models/<model>/configuration_<model>.py). Keys that all classes treat alike are in
/// hf_config.cc.
struct HfClass {
  std::string_view name;
  double rope_theta = 10000;
  double norm_eps = 1e-6;
  int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  HfWindow window = HfWindow::never;
  int64_t default_window = 0;  // where sliding_window is absent
  HfBias attention_bias = HfBias::none;
  bool mlp_bias = false;  // the key mlp_bias is read
  bool experts = false;   // num_local_experts of them
};

/// The common decoder (decoder.h) runs what this describes: embed → layers (norm, attention, residual, norm,
/// gated feed-forward or experts, residual) → norm → head. Which variant a layer is (fused or separate,
/// biased, with query and key norms, dense or experts) follows from the tensors that the table lists and the
/// file has.
struct ArchSpec {
  std::string_view name;                // general.architecture, and prefix of the metadata keys
  std::span<const HfClass> hf_classes;  // `architectures` in config.json
  std::span<const TensorName> tensors;
  /// How heads are stored. GGUF's conversion of Llama permutes the rows of Q and K so that pairs lie side by
  /// side; Hugging Face checkpoints keep halves.
  RopeStyle gguf_rope = RopeStyle::half_split;
  RopeStyle hf_rope = RopeStyle::half_split;
  /// A GGUF file's `attention.sliding_window` is followed. (A checkpoint's always is: see HfWindow.)
  bool sliding_window = false;
};

#define QUERN_ARCH(name) extern const ArchSpec arch_##name;
#include "models/archs.inc"
#undef QUERN_ARCH

/// Null when there is none.
const ArchSpec* find_arch(std::string_view name);
const ArchSpec* find_arch_of_hf_class(std::string_view name);
const HfClass* find_hf_class(const ArchSpec& arch, std::string_view name);
/// All, by name.
std::span<const ArchSpec* const> all_archs();
/// "llama, phi3, …", for messages.
std::string arch_names();
/// "LlamaForCausalLM, …"
std::string hf_class_names();

/// Null when the architecture has no such tensor.
const TensorName* find_name(const ArchSpec& arch, Role role);
/// Puts the layer and the expert into a name's {}.
std::string expand_name(std::string_view pattern, int64_t layer, int64_t expert);

}  // namespace quern
