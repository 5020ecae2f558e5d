"""Reads the fact files and expands their phrases.

A phrase may hold alternatives, "(a|b|)", nested as deep as wanted; "@q" stands for the program's name
and "@name" for a word of the list "W name ...". The format of the files is described in README.md.
"""
import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "facts"
PROGRAM = "(Quern|Quern|Quern|quern|quern|quern|the server|the server|it|it|this|the program|this server|this thing)"


@dataclass
class Fact:
    """One thing the model knows: an answer, and the ways to ask for it."""
    id: str
    kind: str
    answer: str = ""
    topics: list = field(default_factory=list)    # N: noun phrases
    actions: list = field(default_factory=list)   # V: what somebody wants to do
    asks: list = field(default_factory=list)      # Q, X: whole questions
    yes: list = field(default_factory=list)       # Y: questions whose answer begins with "Yes."
    setting: tuple = ()                           # S: variable, default, example
    aliases: list = field(default_factory=list)   # S2: further variables with the same answer
    command: str = ""                             # C
    endpoint: str = ""                            # E
    format: str = ""                              # G: a quantization's name


def split_top(text, separator):
    """Splits at the separator where no parenthesis is open."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return parts + [text[start:]]


def expand(text, rng, words=None):
    """One random expansion of a phrase."""
    def word(match):
        name = match.group(1)
        if name == "q":
            return PROGRAM
        return rng.choice(words[name]) if words and name in words else match.group(0)
    text = re.sub(r"@(\w+)", word, text)
    while True:
        match = re.search(r"\(([^()]*)\)", text)
        if not match or "|" not in match.group(1):
            break
        text = text[:match.start()] + rng.choice(match.group(1).split("|")) + text[match.end():]
    return re.sub(r"\s+", " ", text).strip()


def phrases(rest):
    return [p.strip() for p in split_top(rest, ";") if p.strip()]


def load_facts(path, facts=()):
    """The facts of a file, after those given: a block that begins with "+" adds wordings to one of them."""
    facts, kind = list(facts), ""
    fact = None
    for line in path.read_text().splitlines():
        tag, _, rest = line.partition(" ")
        if not line.strip() or tag == "#":
            continue
        if tag == "kind":
            kind = rest
        elif tag == "=":
            fact = Fact(rest.strip(), kind)
            facts.append(fact)
        elif tag == "+":
            fact = next(f for f in facts if f.id == rest.strip())
        elif tag == "A":
            fact.answer = rest.strip()
        elif tag in ("N", "V", "Q", "X", "Y"):
            where = {"N": "topics", "V": "actions", "Q": "asks", "X": "asks", "Y": "yes"}[tag]
            getattr(fact, where).extend(phrases(rest))
        elif tag == "S":
            fact.setting = tuple(p.strip() for p in rest.split(";"))
        elif tag == "S2":
            fact.aliases.append(rest.strip())
        elif tag in ("C", "E", "G"):
            setattr(fact, {"C": "command", "E": "endpoint", "G": "format"}[tag], rest.strip())
        else:
            raise ValueError(f"{path.name}: unknown line: {line}")
    return facts


def load_all_facts():
    names = ["settings", "commands", "http", "quants", "general", "smalltalk", *sorted(p.stem for p in FOLDER.glob("wordings*.txt"))]
    facts = []
    for name in names:
        facts = load_facts(FOLDER / f"{name}.txt", facts)
    assert len({f.id for f in facts}) == len(facts), "two facts with the same name"
    assert all(f.answer for f in facts), "a fact without an answer"
    return facts


def load_lists(path):
    """The W and Q lines of outside.txt, and the P lines of prose.txt: word lists, groups of phrases."""
    words, groups = {}, []
    for line in path.read_text().splitlines():
        tag, _, rest = line.partition(" ")
        if tag == "W":
            name, _, items = rest.partition(" ")
            words[name] = [w.strip() for w in items.split(";")]
        elif tag == "Q":
            groups.append(phrases(rest))
        elif tag == "P":
            groups.append(rest.strip())
    return words, groups
