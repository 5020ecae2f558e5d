"""Writes the trained model: the Hugging Face checkpoint in BF16, and from it the GGUF in Q8_0 (or F32)."""
import argparse
from pathlib import Path

import torch

import gguf
import model
from checkpoint import CHAT_TEMPLATE, load_checkpoint, save_checkpoint
from tokenizer import SPECIALS, Tokenizer

HERE = Path(__file__).parent
LICENSE = "apache-2.0"
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down"}


def interleave(weight, heads):
    """Rows of Q and K for llama.cpp's rope, which rotates neighbours where Hugging Face rotates halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def gguf_tensors(weights, c, kind):
    """(name, array, type): matrices of the wanted type, norms in F32."""
    def entry(name, tensor):
        return name + ".weight", tensor.numpy(), kind if tensor.dim() == 2 else gguf.F32
    tensors = [entry("token_embd", weights["model.embed_tokens.weight"])]
    for i in range(c.layers):
        for theirs, ours in NAMES.items():
            w = weights[f"model.layers.{i}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                w = interleave(w, c.heads if ours == "attn_q" else c.kv_heads)
            tensors.append(entry(f"blk.{i}.{ours}", w))
    return tensors + [entry("output_norm", weights["model.norm.weight"])]


def gguf_metadata(c, t, kind):
    u32, f32, text, flag = gguf.UINT32, gguf.FLOAT32, gguf.STRING, gguf.BOOL
    return [
        ("general.architecture", text, "llama"), ("general.type", text, "model"), ("general.name", text, "Quern Guide"),
        ("general.size_label", text, "5M"), ("general.license", text, LICENSE), ("general.languages", (gguf.ARRAY, text), ["en"]),
        ("general.description", text, "Answers questions about Quern; trained from scratch on text written for it."),
        ("llama.block_count", u32, c.layers), ("llama.context_length", u32, c.context), ("llama.embedding_length", u32, c.dim),
        ("llama.feed_forward_length", u32, c.ffn), ("llama.attention.head_count", u32, c.heads),
        ("llama.attention.head_count_kv", u32, c.kv_heads), ("llama.attention.key_length", u32, c.head_dim),
        ("llama.attention.value_length", u32, c.head_dim), ("llama.attention.layer_norm_rms_epsilon", f32, c.eps),
        ("llama.rope.freq_base", f32, c.rope_base), ("llama.rope.dimension_count", u32, c.head_dim), ("llama.vocab_size", u32, c.vocab),
        ("general.file_type", u32, 7 if kind == gguf.Q8_0 else 0), ("general.quantization_version", u32, 2),
        ("tokenizer.ggml.model", text, "gpt2"), ("tokenizer.ggml.pre", text, "gpt-2"),
        ("tokenizer.ggml.tokens", (gguf.ARRAY, text), t.tokens),
        ("tokenizer.ggml.token_type", (gguf.ARRAY, gguf.INT32), [3 if s in SPECIALS else 1 for s in t.tokens]),
        ("tokenizer.ggml.merges", (gguf.ARRAY, text), [f"{a} {b}" for a, b in t.merges]),
        ("tokenizer.ggml.eos_token_id", u32, t.end), ("tokenizer.ggml.eot_token_id", u32, t.end),
        ("tokenizer.ggml.padding_token_id", u32, t.eot), ("tokenizer.ggml.add_bos_token", flag, False),
        ("tokenizer.ggml.add_eos_token", flag, False), ("tokenizer.ggml.add_space_prefix", flag, False),
        ("tokenizer.chat_template", text, CHAT_TEMPLATE),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", nargs="+", default=[HERE.parents[1] / "build/guide/state.pt"],
                        help="what train.py wrote; of several, kept at different steps, the mean is taken")
    parser.add_argument("--out", default=HERE, help="folder for checkpoint/ and guide-q8_0.gguf")
    parser.add_argument("--f32", help="only write a GGUF in F32, made from checkpoint/, to this path")
    args = parser.parse_args()
    out, t = Path(args.out), Tokenizer.load()
    if args.f32:
        weights, c = load_checkpoint(out / "checkpoint")
        gguf.write(Path(args.f32), gguf_metadata(c, t, gguf.F32), gguf_tensors(weights, c, gguf.F32))
        return
    states = [torch.load(path, map_location="cpu") for path in args.state]
    mean = {name: sum(s["params"][name] for s in states) / len(states) for name in states[0]["params"]}
    save_checkpoint(out / "checkpoint", mean, model.Config(**states[0]["config"]), t)
    weights, c = load_checkpoint(out / "checkpoint")    # rounded to BF16: what everything else starts from
    gguf.write(out / "guide-q8_0.gguf", gguf_metadata(c, t, gguf.Q8_0), gguf_tensors(weights, c, gguf.Q8_0))


if __name__ == "__main__":
    main()
