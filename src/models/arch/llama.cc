// Llama 1 to 3.x, TinyLlama, Mistral and Mixtral, and whatever else was converted as "llama".
#include "models/arch.h"

namespace quern {
namespace {

constexpr HfClass classes[] = {
    {.name = "LlamaForCausalLM", .attention_bias = HfBias::by_key, .mlp_bias = true},
    {.name = "MistralForCausalLM", .window = HfWindow::where_set, .default_window = 4096},
    {.name = "MixtralForCausalLM",
     .rope_theta = 1e6,
     .norm_eps = 1e-5,
     .window = HfWindow::where_set,
     .experts = true},
};

constexpr TensorName tensors[] = {
    {Role::token_embd, "token_embd.weight", "model.embed_tokens.weight"},
    {Role::output_norm, "output_norm.weight", "model.norm.weight"},
    {Role::output, "output.weight", "lm_head.weight", true},
    {Role::rope_freqs, "rope_freqs.weight", "", true},
    {Role::rope_factors_long, "rope_factors_long.weight", "", true},
    {Role::rope_factors_short, "rope_factors_short.weight", "", true},
    {Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"},
    {Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight"},
    {Role::attn_k, "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight"},
    {Role::attn_v, "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"},
    {Role::attn_out, "blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"},
    {Role::attn_q_bias, "blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", true},
    {Role::attn_k_bias, "blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", true},
    {Role::attn_v_bias, "blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", true},
    {Role::attn_out_bias, "blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias", true},
    {Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"},
    {Role::ffn_gate, "blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"},
    {Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"},
    {Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"},
    {Role::ffn_gate_bias, "blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias", true},
    {Role::ffn_up_bias, "blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias", true},
    {Role::ffn_down_bias, "blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias", true},
    // Mixtral
    {Role::router, "blk.{}.ffn_gate_inp.weight", "model.layers.{}.block_sparse_moe.gate.weight"},
    {Role::experts_gate, "blk.{}.ffn_gate_exps.weight", ""},
    {Role::experts_up, "blk.{}.ffn_up_exps.weight", ""},
    {Role::experts_down, "blk.{}.ffn_down_exps.weight", ""},
    {Role::expert_gate, "blk.{}.ffn_gate.{}.weight", "model.layers.{}.block_sparse_moe.experts.{}.w1.weight"},
    {Role::expert_up, "blk.{}.ffn_up.{}.weight", "model.layers.{}.block_sparse_moe.experts.{}.w3.weight"},
    {Role::expert_down, "blk.{}.ffn_down.{}.weight", "model.layers.{}.block_sparse_moe.experts.{}.w2.weight"},
};

}  // namespace

// The window: Mistral 7B v0.1's files have the key only where a converter wrote it, and mean it. (llama.cpp
// does not read it for this architecture, so the two differ beyond the window.)
const ArchSpec arch_llama{
    .name = "llama",
    .hf_classes = classes,
    .tensors = tensors,
    .gguf_rope = RopeStyle::interleaved,
    .sliding_window = true,
};

}  // namespace quern
