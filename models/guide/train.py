"""Trains the model on the rows that generate.py wrote. One pass over the data; runs on a CPU or a CUDA GPU.

Matrices are stepped with Muon (momentum, then the nearest orthogonal matrix), embeddings and norms with AdamW.
The learning rate rises, stays, and falls to nothing over the last part of the steps.
"""
import argparse
import math
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import fast
import model
from evaluate import read_items, score
from tokenizer import Tokenizer

HERE = Path(__file__).parent
PROSE_EVERY = 12        # every so manyth step is prose


def orthogonal(g):
    """Newton-Schulz towards the nearest orthogonal matrix, for a batch of matrices (Muon's coefficients)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).bfloat16() + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-2, -1) if tall else x
    for _ in range(5):
        s = x @ x.transpose(-2, -1)
        x = a * x + (b * s + c * (s @ s)) @ x
    return (x.transpose(-2, -1) if tall else x).float()


class Muon:
    """Steps all matrices of one shape together."""

    def __init__(self, params, momentum=0.95, decay=0.01):
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.momentum, self.decay = momentum, decay
        self.buffers = {shape: torch.zeros((len(ps), *shape), device=ps[0].device) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, lr):
        for shape, params in self.groups.items():
            grad = torch.stack([p.grad for p in params])
            buffer = self.buffers[shape].mul_(self.momentum).add_(grad, alpha=1 - self.momentum)
            update = orthogonal(grad.lerp(buffer, self.momentum)) * max(1.0, shape[0] / shape[1]) ** 0.5
            for p, u in zip(params, update):
                p.mul_(1 - lr * self.decay).add_(u, alpha=-lr)
                p.grad = None


def rate(step, steps, warm, fall):
    """Factor on the learning rate."""
    return min(1.0, (step + 1) / warm, (steps - step) / (fall * steps))


class Data:
    def __init__(self, folder, batch, seed):
        load = lambda name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r")
        self.chat, self.weights, self.parts, self.prose = (load(n) for n in ("chat", "chat_weights", "chat_parts", "prose"))
        self.batch, self.prose_batch = batch, max(1, batch * 192 // 512)
        self.chat_order = np.random.default_rng(seed).permutation(len(self.chat))
        self.prose_order = np.random.default_rng(seed + 1).permutation(len(self.prose))

    def steps(self):
        """How many steps one pass over the chat rows gives."""
        return len(self.chat) // self.batch * PROSE_EVERY // (PROSE_EVERY - 1)

    def rows(self, step):
        """Ids, weights and parts of a step; past the end of the data it begins again."""
        take = lambda order, i, n: np.sort(order[np.arange(i * n, (i + 1) * n) % len(order)])
        if step % PROSE_EVERY == PROSE_EVERY - 1:
            ids = self.prose[take(self.prose_order, step // PROSE_EVERY, self.prose_batch)]
            weights, parts = np.full(ids.shape, 255, np.uint8), None
        else:
            index = take(self.chat_order, step - step // PROSE_EVERY, self.batch)
            ids, weights, parts = self.chat[index], self.weights[index], torch.from_numpy(self.parts[index].astype(np.int64))
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(weights.astype(np.float32) / 255), parts


def loss_of(weights, config, ids, mask, parts, dtype, ops=model.PLAIN):
    """Mean loss over the answers and prose, plus the questions at their weight."""
    mask, targets = mask[:, 1:], ids[:, 1:]
    keep = mask > 0
    parts = None if parts is None else parts[:, :-1]
    logits = model.forward(weights, config, ids[:, :-1], dtype, keep=keep, parts=parts, ops=ops)
    return (ops.cross_entropy(logits, targets[keep]) * mask[keep]).sum() / mask.sum()


@torch.no_grad()
def heldout_loss(weights, config, ids, dtype):
    rows = ids[:len(ids) // 512 * 512].view(-1, 512)
    total = [loss_of(weights, config, r[None], torch.ones_like(r)[None].float(), None, dtype).item() for r in rows[::3]]
    return sum(total) / len(total)


def save(path, step, params, muon, adam, config):
    state = {"step": step, "params": {n: p.detach() for n, p in params.items()}, "config": config.as_dict(),
             "muon": muon.buffers, "adam": adam.state_dict()}
    torch.save(state, str(path) + ".part")
    Path(str(path) + ".part").rename(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=HERE.parents[1] / "build/guide/data")
    parser.add_argument("--state", default=HERE.parents[1] / "build/guide/state.pt", help="checkpoint to write, and to go on from")
    parser.add_argument("--steps", type=int, default=0, help="0: one pass over the data")
    parser.add_argument("--batch", type=int, default=32, help="chat rows a step")
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--fall", type=float, default=0.4, help="part of the steps over which the rate falls")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=200, help="steps between evaluations")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    config, t, dtype = model.Config(), Tokenizer.load(), torch.bfloat16
    ops = (fast.load(Path(args.state).parent) if args.device == "cpu" else None) or model.PLAIN
    data = Data(args.data, args.batch, args.seed)
    steps = args.steps or data.steps()
    params = {n: w.to(args.device).requires_grad_() for n, w in model.initial(config, args.seed).items()}
    matrix = lambda n, p: p.dim() == 2 and "embed" not in n
    muon = Muon([p for n, p in params.items() if matrix(n, p)])
    adam = torch.optim.AdamW([p for n, p in params.items() if not matrix(n, p)], lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    first = 0
    if Path(args.state).exists():
        state = torch.load(args.state, map_location=args.device)
        first = state["step"]
        for n, p in params.items():
            p.data.copy_(state["params"][n])
        muon.buffers = state["muon"]
        adam.load_state_dict(state["adam"])
    heldout = torch.tensor(t.encode((HERE / "heldout.txt").read_text()), device=args.device)
    dev = read_items(HERE / "dev_questions.jsonl")
    print(f"{sum(p.numel() for p in params.values()):,} parameters, steps {first} to {steps}, {args.device}", flush=True)
    began, seen, average = time.time(), 0, None
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))     # saves and ends; the next start goes on
    for step in range(first, steps):
        ids, mask, parts = (x if x is None else x.to(args.device) for x in data.rows(step))
        loss = loss_of(params, config, ids, mask, parts, dtype, ops)
        loss.backward()
        factor = rate(step, steps, 40, args.fall)
        muon.step(args.lr * factor)
        for group in adam.param_groups:
            group["lr"] = args.adam_lr * factor
        adam.step()
        adam.zero_grad(set_to_none=True)
        seen += ids.numel()
        if step % PROSE_EVERY != PROSE_EVERY - 1:
            average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
        if (step + 1) % 20 == 0:
            speed = seen / (time.time() - began)
            eta = (steps - step - 1) * args.batch * 193 / speed / 60
            print(f"step {step + 1} chat loss {average:.4f} rate {factor:.2f} {speed:.0f} tok/s eta {eta:.0f} min", flush=True)
        if stop:
            save(args.state, step + 1, params, muon, adam, config)
            break
        if (step + 1) % args.every == 0 or step + 1 == steps:
            save(args.state, step + 1, params, muon, adam, config)
            plain = {n: p.detach() for n, p in params.items()}
            nll = heldout_loss(plain, config, heldout, dtype)
            right, failures = score(plain, config, t, dev)
            print(f"== step {step + 1}: held-out loss {nll:.4f} (ppl {math.exp(nll):.3f}), dev {right} of {len(dev)}", flush=True)
            for question, text in failures[:60]:
                print(f"   {question}\n      {text}", flush=True)


if __name__ == "__main__":
    main()
