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

/// A role's name in both worlds: the first {} is the layer, the second the expert. "" where a world has none.
struct TensorName {
  Role role;
  std::string_view gguf;
  std::string_view hf;
  bool optional = false;  // if a layer has it, all layers must
};

/// The common decoder (decoder.h) runs what this describes: embed → layers (norm, attention, residual, norm,
/// gated feed-forward or experts, residual) → norm → head. Which variant a layer is (fused or separate,
/// biased, with query and key norms, dense or experts) follows from the tensors that the table lists and the
/// file has.
struct ArchSpec {
  std::string_view name;                         // general.architecture, and prefix of the metadata keys
  std::span<const std::string_view> hf_classes;  // `architectures` in config.json
  std::span<const TensorName> tensors;
  /// How heads are stored. GGUF's conversion of Llama permutes the rows of Q and K so that pairs lie side by
  /// side; Hugging Face checkpoints keep halves.
  RopeStyle gguf_rope = RopeStyle::half_split;
  RopeStyle hf_rope = RopeStyle::half_split;
  bool sliding_window = false;  // `attention.sliding_window` is followed
};

#define QUERN_ARCH(name) extern const ArchSpec arch_##name;
#include "models/archs.inc"
#undef QUERN_ARCH

/// Null when there is none.
const ArchSpec* find_arch(std::string_view name);
const ArchSpec* find_arch_of_hf_class(std::string_view name);
/// All, by name.
std::span<const ArchSpec* const> all_archs();
/// "llama, phi3, …", for messages.
std::string arch_names();

/// Null when the architecture has no such tensor.
const TensorName* find_name(const ArchSpec& arch, Role role);
/// Puts the layer and the expert into a name's {}.
std::string expand_name(std::string_view pattern, int64_t layer, int64_t expert);

}  // namespace quern
