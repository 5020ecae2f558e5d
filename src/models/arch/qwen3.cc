// Qwen3 (dense): a norm over each query and key head, heads of a size of their own (attention.key_length).
#include "models/arch.h"

namespace quern {
namespace {

constexpr HfClass classes[] = {{.name = "Qwen3ForCausalLM",
                                .head_dim = 128,
                                .window = HfWindow::if_switched,
                                .default_window = 4096,
                                .attention_bias = HfBias::by_key}};

constexpr TensorName tensors[] = {
    {Role::token_embd, "token_embd.weight", "model.embed_tokens.weight"},
    {Role::output_norm, "output_norm.weight", "model.norm.weight"},
    {Role::output, "output.weight", "lm_head.weight", true},
    {Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"},
    {Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight"},
    {Role::attn_k, "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight"},
    {Role::attn_v, "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"},
    {Role::attn_q_bias, "blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", true},
    {Role::attn_k_bias, "blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", true},
    {Role::attn_v_bias, "blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", true},
    {Role::attn_q_norm, "blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"},
    {Role::attn_k_norm, "blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"},
    {Role::attn_out, "blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"},
    {Role::attn_out_bias, "blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias", true},
    {Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"},
    {Role::ffn_gate, "blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"},
    {Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"},
    {Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"},
};

}  // namespace

const ArchSpec arch_qwen3{.name = "qwen3", .hf_classes = classes, .tensors = tensors};

}  // namespace quern
