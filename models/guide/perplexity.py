"""Perplexity as llama.cpp defines it: the whole text in chunks of 512 tokens, of which the second half is predicted."""
import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F

import model
from checkpoint import load_checkpoint
from tokenizer import Tokenizer


@torch.no_grad()
def perplexity(weights, config, ids, chunk=512):
    """In each chunk the tokens after position chunk/2 count; the rest at the end that fills no chunk is left out."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - chunk + 1, chunk):
        row = torch.tensor(ids[start:start + chunk])
        logits = model.forward(weights, config, row[None])[0]
        losses = F.cross_entropy(logits[chunk // 2:-1], row[chunk // 2 + 1:], reduction="none")
        total, count = total + losses.double().sum().item(), count + len(losses)
    return math.exp(total / count), count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    here = Path(__file__).parent
    parser.add_argument("--checkpoint", default=here / "checkpoint")
    parser.add_argument("--file", default=here / "heldout.txt")
    args = parser.parse_args()
    torch.set_num_threads(2)
    weights, config = load_checkpoint(args.checkpoint)
    ids = Tokenizer.load().encode(Path(args.file).read_text())
    value, count = perplexity(weights, config, ids)
    print(f"perplexity {value:.4f} over {count} of {len(ids)} tokens")


if __name__ == "__main__":
    main()
