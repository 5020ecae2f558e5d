"""The Hugging Face checkpoint: a small safetensors reader and writer, and the files beside it."""
import json
import struct
from pathlib import Path

import numpy as np
import torch

import model
from tokenizer import SPECIALS

CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
                 "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def bf16_bits(tensor):
    return tensor.to(torch.bfloat16).view(torch.int16).numpy().astype("<i2")


def write_safetensors(path, tensors):
    """All tensors as BF16. The header is padded with spaces to a multiple of 8, as the format asks."""
    header, data, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in sorted(tensors.items()):
        raw = bf16_bits(tensor.contiguous()).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset + len(raw)]}
        data.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def read_safetensors(path):
    """The BF16 tensors of a file, as F32."""
    blob = path.read_bytes()
    size, = struct.unpack_from("<Q", blob)
    header = json.loads(blob[8:8 + size])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + size + o for o in entry["data_offsets"])
            bits = np.frombuffer(blob[begin:end], "<u2").astype(np.uint32) << 16
            tensors[name] = torch.from_numpy(bits.view(np.float32).reshape(entry["shape"]).copy())
    return tensors


def hf_config(c, t):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": c.vocab, "hidden_size": c.dim,
            "intermediate_size": c.ffn, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "hidden_act": "silu", "max_position_embeddings": c.context,
            "rope_theta": c.rope_base, "rope_scaling": None, "rms_norm_eps": c.eps, "tie_word_embeddings": True,
            "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "pretraining_tp": 1,
            "torch_dtype": "bfloat16", "use_cache": True, "bos_token_id": None, "eos_token_id": t.end, "pad_token_id": t.eot}


def tokenizer_config(c, t):
    decoder = {str(t.ids[s]): {"content": s, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
               for s in SPECIALS}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False, "bos_token": None,
            "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "clean_up_tokenization_spaces": False,
            "model_max_length": c.context, "added_tokens_decoder": decoder, "chat_template": CHAT_TEMPLATE}


def save_checkpoint(folder, weights, c, t):
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", weights)
    t.save(folder / "tokenizer.json")
    files = {"config": hf_config(c, t), "tokenizer_config": tokenizer_config(c, t),
             "special_tokens_map": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
             "generation_config": {"eos_token_id": [t.end, t.eot], "pad_token_id": t.eot}}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_checkpoint(folder):
    """Weights in F32 (each exactly a BF16 number) and the model's shape."""
    folder = Path(folder)
    j = json.loads((folder / "config.json").read_text())
    config = model.Config(j["vocab_size"], j["hidden_size"], j["intermediate_size"], j["num_hidden_layers"], j["num_attention_heads"],
                          j["num_key_value_heads"], j["max_position_embeddings"], j["rope_theta"], j["rms_norm_eps"])
    return read_safetensors(folder / "model.safetensors"), config
