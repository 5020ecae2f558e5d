"""Byte-level BPE with GPT-2's split: training, encoding, decoding, tokenizer.json."""
import collections
import json
import re
import sys
import unicodedata
from pathlib import Path

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = 2048
FILE = Path(__file__).parent / "checkpoint" / "tokenizer.json"


def _numbers():
    """\\p{N} as a character class: Python's re has no \\p."""
    points = [p for p in range(sys.maxunicode + 1) if unicodedata.category(chr(p))[0] == "N"]
    ranges, start = [], points[0]
    for a, b in zip(points, points[1:] + [None]):
        if b != a + 1:
            ranges.append(re.escape(chr(start)) + "-" + re.escape(chr(a)))
            start = b
    return "".join(ranges)


_N = _numbers()
_L = rf"(?:(?![{_N}_])\w)"
SPLIT = re.compile(rf"'s|'t|'re|'ve|'m|'ll|'d| ?{_L}+| ?[{_N}]+| ?(?:(?![{_N}])[^\s\w]|_)+|\s+(?!\S)|\s+")


def byte_alphabet():
    """GPT-2's printable stand-in for every byte, in the order of the base vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in kept}
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + len(table) - len(kept))
    return table


BYTE = byte_alphabet()
UNBYTE = {c: b for b, c in BYTE.items()}


def train(texts, vocab_size=VOCAB):
    """The merges of a BPE over the words of the texts; the most frequent pair first, ties by text."""
    counts = collections.Counter(w for t in texts for w in SPLIT.findall(t))
    words = [([BYTE[b] for b in w.encode()], n) for w, n in sorted(counts.items())]
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for i, (w, n) in enumerate(words):
        for p in zip(w, w[1:]):
            pairs[p] += n
            where[p].add(i)
    merges = []
    while len(merges) < vocab_size - 256 - len(SPECIALS):
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        for i in sorted(where.pop(best)):
            w, n = words[i]
            for p in zip(w, w[1:]):
                pairs[p] -= n
            w[:] = merge_pair(w, best)
            for p in zip(w, w[1:]):
                pairs[p] += n
                where[p].add(i)
        del pairs[best]
    return merges


def merge_pair(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


class Tokenizer:
    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.tokens = sorted(BYTE.values()) + [a + b for a, b in self.merges] + SPECIALS
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        assert len(self.ids) == len(self.tokens), "two merges give the same token"
        self.rank = {m: i for i, m in enumerate(self.merges)}
        self.cache = {}
        self.eot, self.start, self.end = (self.ids[s] for s in SPECIALS)

    def word(self, text):
        """The ids of one word, by repeated merging of the pair with the lowest rank."""
        if text not in self.cache:
            w = [BYTE[b] for b in text.encode()]
            while len(w) > 1:
                pair = min(zip(w, w[1:]), key=lambda p: self.rank.get(p, 1 << 30))
                if pair not in self.rank:
                    break
                w = merge_pair(w, pair)
            self.cache[text] = [self.ids[s] for s in w]
        return self.cache[text]

    def encode(self, text):
        """Ids of plain text; a special token's name in it is just text."""
        return [i for w in SPLIT.findall(text) for i in self.word(w)]

    def decode(self, ids):
        text = "".join(self.tokens[i] for i in ids if i < len(self.tokens) - len(SPECIALS))
        return bytes(UNBYTE[c] for c in text).decode(errors="replace")

    def turn(self, role, content):
        """One ChatML message, with the newline that follows it."""
        return [self.start, *self.encode(f"{role}\n{content}"), self.end, *self.encode("\n")]

    def prompt(self, messages):
        ids = [i for role, content in messages for i in self.turn(role, content)]
        return ids + [self.start, *self.encode("assistant\n")]

    def save(self, path=FILE):
        path.parent.mkdir(exist_ok=True)
        special = [{"id": self.ids[s], "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                    "normalized": False, "special": True} for s in SPECIALS]
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                 "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                 "vocab": {t: i for i, t in enumerate(self.tokens[:-len(SPECIALS)])},
                 "merges": [f"{a} {b}" for a, b in self.merges]}
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
                 "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}
        path.write_text(json.dumps(whole, ensure_ascii=False, indent=0) + "\n")

    @classmethod
    def load(cls, path=FILE):
        model = json.loads(path.read_text())["model"]
        return cls([m.split(" ") for m in model["merges"]])
