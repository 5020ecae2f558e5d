// Phi-3, Phi-3.5 (mini, medium) and Phi-4: Q, K and V in one matrix, gate and up in one matrix, long-rope
// factors.
#include "models/arch.h"

namespace quern {
namespace {

constexpr HfClass classes[] = {{.name = "Phi3ForCausalLM", .norm_eps = 1e-5, .window = HfWindow::where_set}};

constexpr TensorName tensors[] = {
    {Role::token_embd, "token_embd.weight", "model.embed_tokens.weight"},
    {Role::output_norm, "output_norm.weight", "model.norm.weight"},
    {Role::output, "output.weight", "lm_head.weight", true},
    {Role::rope_factors_long, "rope_factors_long.weight", "", true},
    {Role::rope_factors_short, "rope_factors_short.weight", "", true},
    {Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"},
    {Role::attn_qkv, "blk.{}.attn_qkv.weight", "model.layers.{}.self_attn.qkv_proj.weight"},
    {Role::attn_qkv_bias, "blk.{}.attn_qkv.bias", "", true},
    {Role::attn_out, "blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"},
    {Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"},
    {Role::ffn_gate_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight"},
    {Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"},
};

}  // namespace

// In GGUF files `phi3.attention.sliding_window` is not followed, as in llama.cpp: converters wrote values
// into files that the models were not meant to run with.
const ArchSpec arch_phi3{.name = "phi3", .hf_classes = classes, .tensors = tensors};

}  // namespace quern
