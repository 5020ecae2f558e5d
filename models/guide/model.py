"""A Llama-architecture decoder in plain PyTorch, for training (bfloat16 products) and for reference (F32)."""
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F


@dataclass
class Config:
    vocab: int = 2048
    dim: int = 256
    ffn: int = 768
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    context: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self):
        return self.dim // self.heads

    def as_dict(self):
        return asdict(self)


class RMSNorm(torch.autograd.Function):
    """y = w·x/rms(x), kept as one step so that no intermediate stays in memory."""

    @staticmethod
    def forward(ctx, x, weight, eps, dtype):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale * weight).to(dtype)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        grad, unit = grad.float(), x * scale
        dweight = (grad * unit).flatten(0, -2).sum(0)
        grad = grad * weight
        dx = scale * (grad - unit * (grad * unit).mean(-1, keepdim=True))
        return dx, dweight, None, None


class SwiGLU(torch.autograd.Function):
    """silu(gate)·up by way of sigmoid: PyTorch's own silu is slow in bfloat16 on a CPU."""

    @staticmethod
    def forward(ctx, gate, up):
        sigmoid = torch.sigmoid(gate)
        ctx.save_for_backward(gate, up, sigmoid)
        return gate * sigmoid * up

    @staticmethod
    def backward(ctx, grad):
        gate, up, sigmoid = ctx.saved_tensors
        silu = gate * sigmoid
        return grad * up * (sigmoid + silu * (1 - sigmoid)), grad * silu


def rope_table(config, length, device):
    """cos and sin for each position, [length, head_dim / 2]."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    angles = torch.arange(length, dtype=torch.float32, device=device)[:, None] * (config.rope_base ** -half)[None]
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):
    """Half-split rotation, as Hugging Face's Llama: x is [batch, time, heads, head_dim]."""
    a, b = x.float().chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def see(batch, time, past, parts, device, dtype):
    """What to add to the scores: [time, past + time], or with parts [batch, time, time]; nobody sees ahead."""
    mask = torch.full((time, past + time), float("-inf"), device=device).triu(past + 1).to(dtype)
    if parts is None:
        return mask
    return torch.where(parts[:, :, None] == parts[:, None], mask, torch.full_like(mask, float("-inf")))


def softmax(scores, mask):
    """scores [B * KV, group, T, S]."""
    if mask.dim() == 3:
        mask = mask.repeat_interleave(len(scores) // len(mask), 0)[:, None]
    return F.softmax(scores + mask, -1)


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.float(), targets, reduction="none")


PLAIN = SimpleNamespace(norm=RMSNorm.apply, swiglu=SwiGLU.apply, rotate=rotate, mask=see, softmax=softmax, cross_entropy=cross_entropy)


def attention(q, k, v, mask, softmax):
    """q [B,T,H,D], k and v [B,S,KV,D]. Heads that share a KV head go in one product."""
    batch, time, heads, width = q.shape
    kv = k.shape[2]
    group = heads // kv
    q = q.reshape(batch, time, kv, group, width).permute(0, 2, 3, 1, 4).reshape(batch * kv, group * time, width)
    k = k.permute(0, 2, 3, 1).reshape(batch * kv, width, -1)
    v = v.permute(0, 2, 1, 3).reshape(batch * kv, -1, width)
    scores = torch.bmm(q * width ** -0.5, k).view(batch * kv, group, time, -1)
    probs = softmax(scores, mask).view(batch * kv, group * time, -1)
    out = torch.bmm(probs, v).view(batch, kv, group, time, width)
    return out.permute(0, 3, 1, 2, 4).reshape(batch, time, heads * width)


def shapes(config):
    """Hugging Face tensor names and shapes; the output head is the embedding."""
    d, kv = config.dim, config.kv_heads * config.head_dim
    names = {"model.embed_tokens.weight": (config.vocab, d), "model.norm.weight": (d,)}
    for i in range(config.layers):
        p = f"model.layers.{i}."
        names |= {p + "input_layernorm.weight": (d,), p + "post_attention_layernorm.weight": (d,),
                  p + "self_attn.q_proj.weight": (d, d), p + "self_attn.k_proj.weight": (kv, d),
                  p + "self_attn.v_proj.weight": (kv, d), p + "self_attn.o_proj.weight": (d, d),
                  p + "mlp.gate_proj.weight": (config.ffn, d), p + "mlp.up_proj.weight": (config.ffn, d),
                  p + "mlp.down_proj.weight": (d, config.ffn)}
    return names


def initial(config, seed):
    """Fresh weights: small normal matrices, and nothing yet added to the residual stream."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(config).items():
        if len(shape) == 1:
            weights[name] = torch.ones(shape)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = torch.zeros(shape)
        else:
            std = 0.02 if "embed" in name else 0.5 * shape[1] ** -0.5
            weights[name] = torch.randn(shape, generator=generator) * std
    return weights


def forward(weights, config, ids, dtype=torch.float32, cache=None, keep=None, parts=None, ops=PLAIN):
    """Logits [B, T, vocab], or [n, vocab] of the n places where keep is true.

    With a cache (a list of (k, v) per layer, filled here) ids continue it. With parts [B, T] a place sees only
    those of its own part.
    """
    past = cache[0][0].shape[1] if cache else 0
    batch, time = ids.shape
    cos, sin = (t[past:] for t in rope_table(config, past + time, ids.device))
    mask = ops.mask(batch, time, past, parts, ids.device, dtype)
    cast = {n: w if w.dim() == 1 else w.to(dtype) for n, w in weights.items()}
    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    for i in range(config.layers):
        w = lambda name: cast[f"model.layers.{i}.{name}.weight"]
        h = ops.norm(x, w("input_layernorm"), config.eps, dtype)
        split = lambda name, n: F.linear(h, w(f"self_attn.{name}_proj")).view(batch, time, n, config.head_dim)
        q, k, v = ops.rotate(split("q", config.heads), cos, sin), ops.rotate(split("k", config.kv_heads), cos, sin), split("v", config.kv_heads)
        if cache is not None:
            if len(cache) > i:
                k, v = torch.cat((cache[i][0], k), 1), torch.cat((cache[i][1], v), 1)
                cache[i] = (k, v)
            else:
                cache.append((k, v))
        x = x + F.linear(attention(q, k, v, mask, ops.softmax), w("self_attn.o_proj"))
        h = ops.norm(x, w("post_attention_layernorm"), config.eps, dtype)
        x = x + F.linear(ops.swiglu(F.linear(h, w("mlp.gate_proj")), F.linear(h, w("mlp.up_proj"))), w("mlp.down_proj"))
    x = x if keep is None else x[keep]
    h = ops.norm(x, cast["model.norm.weight"], config.eps, dtype)
    return F.linear(h, cast["model.embed_tokens.weight"])


@torch.no_grad()
def greedy(weights, config, prompt, end, limit=160):
    """The most likely continuation, up to the end token (left out)."""
    device = weights["model.norm.weight"].device
    cache, out = [], []
    ids = torch.tensor([prompt], device=device)
    for _ in range(min(limit, config.context - len(prompt))):
        token = int(forward(weights, config, ids, cache=cache)[0, -1].argmax())
        if token == end:
            break
        out.append(token)
        ids = torch.tensor([[token]], device=device)
    return out
