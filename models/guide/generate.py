"""Writes the training data: chat rows and prose rows of token ids, with a weight for each token.

Everything is drawn from the fact files with one seed, so the same command gives the same data.
"""
import argparse
import json
import random
import re
from pathlib import Path

import tokenizer as tok
from grammar import FOLDER, expand, load_all_facts, load_lists, split_top
from phrasing import Phrasing

HERE = Path(__file__).parent
CHAT_ROW, PROSE_ROW = 193, 513      # one more than the model sees: the last token is only a target
QUESTION_WEIGHT = 8                 # of 255: a question is worth learning, but it is the answer that counts
BROKEN_OFF = 0.8                    # part of the dialogues whose last answer is not told to its end
UNKNOWN = [
    "I don't know that. I only know about Quern: installing, configuring and using it.",
    "I don't know. I can only answer questions about Quern.",
    "Sorry, I don't know. I only know about Quern, its settings, commands, models and API.",
]
MORE = "I don't know more about that. Ask me about a setting, a command or an error by its name."
SYSTEM = [
    "You are a helpful assistant.", "You are Quern Guide. You answer questions about Quern.", "Answer briefly.", "You are a helpful AI assistant.",
    "You are a friendly assistant that answers in one or two sentences.", "Be concise.", "You are an expert on Quern.", "You help users of Quern.",
]
FOLLOW_DEFAULT = "(and |)what is (the|its) default( value|) ; (and |)the default ; default ; what is it by default ; and by default ; what is it set to (normally|by default)"
FOLLOW_SET = """(and |)how do i (set|change) (it|that|this) ; where do i (set|put|write|change) (it|that|this) ; how (exactly|) ; (can you |please |)(give|show) me an example ; (and |)how ;
an example ; example please ; how do i do that ; how do i use it ; where do i put that ; and where do i write that ; and how do i change it ; can i change (it|that)""".replace("\n", " ")
FOLLOW_NAME = "what is (the variable|it|the setting) called ; (which|what) (variable|setting) is (that|it) ; the name of the (variable|setting) ; how is that variable called"
FOLLOW_COMMAND = "how do i (run|use|call|start) (it|that) ; what do i type ; example please ; which options does it have ; show me the command"
FOLLOW_METHOD = "is (that|it) (get or post|a get or a post|post or get) ; which (http |)method ; how do i call (it|that) ; what is the path"
FOLLOW_MORE = "why ; tell me more ; more details please ; anything else ; can you say more ; go on ; and ; more ; what else"


def normal(text):
    return re.sub(r"[^a-z0-9_/]+", " ", text.lower()).strip()


def nonsense(rng):
    return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice(["a", "e", "i", "o", "u", "ar", "en", "il", "or", "un"])
                   for _ in range(rng.choice([1, 2, 2, 3])))


class Writer:
    def __init__(self, seed, forbidden=()):
        self.rng = random.Random(seed)
        self.facts = load_all_facts()
        self.words, self.outside = load_lists(FOLDER / "outside.txt")
        self.prose_words, self.paragraphs = load_lists(FOLDER / "prose.txt")
        self.phrasing = Phrasing(self.rng, self.words)
        self.forbidden = set(forbidden)

    def fresh(self, make):
        """Draws until the question is none of those kept for testing."""
        while True:
            text, answer = make()
            if normal(text) not in self.forbidden:
                return text, answer

    def about(self, fact, roughness=1.0):
        def make():
            text, yes = self.phrasing.question(fact, roughness)
            plain = fact.answer.startswith(("Yes", "No", "I "))
            return text, ("Yes. " if yes and not plain else "") + fact.answer
        return self.fresh(make)

    def unknown(self):
        def make():
            group = self.rng.randrange(len(self.outside))
            self.words["nonsense"] = [nonsense(self.rng)]
            text = expand(self.rng.choice(self.outside[group]), self.rng, self.words)
            text = expand(text, self.rng, self.words)
            return self.phrasing.roughen(text, 0.7), UNKNOWN[group % len(UNKNOWN)]
        return self.fresh(make)

    def pick(self, alternatives):
        text = expand(self.rng.choice(split_top(alternatives, ";")), self.rng)
        return self.phrasing.dress(text)

    def follow(self, fact):
        """A second question that only makes sense after the first."""
        kinds = ["more"]
        if fact.setting:
            kinds += ["default", "set", "set", "name"] * 2
        kinds += ["command"] * 3 if fact.command else []
        kinds += ["method"] * 3 if fact.endpoint else []
        kind = self.rng.choice(kinds)
        if kind == "default":
            return self.pick(FOLLOW_DEFAULT), f"The default of {fact.setting[0]} is {fact.setting[1]}."
        if kind == "set":
            return self.pick(FOLLOW_SET), f"Put {fact.setting[0]}={fact.setting[2]} in your .env file or in the environment, then restart Quern."
        if kind == "name":
            return self.pick(FOLLOW_NAME), f"It is called {fact.setting[0]}."
        if kind == "command":
            return self.pick(FOLLOW_COMMAND), f"Type {fact.command} in a terminal; {fact.command} --help shows its options."
        if kind == "method":
            return self.pick(FOLLOW_METHOD), f"It is {fact.endpoint}."
        return self.pick(FOLLOW_MORE), MORE

    def dialogue(self):
        """A list of (role, content)."""
        rng = self.rng
        one = lambda: self.unknown() if rng.random() < 0.22 else self.about(rng.choice(self.facts))
        turns = []
        if rng.random() < 0.12:
            turns.append(("system", rng.choice(SYSTEM)))
        if rng.random() < 0.86:
            pairs = [one()]
        elif rng.random() < 0.55:
            fact = rng.choice([f for f in self.facts if f.setting or f.command or f.endpoint or rng.random() < 0.1])
            pairs = [self.about(fact), self.follow(fact)]
        else:
            pairs = [one() for _ in range(rng.choice([2, 2, 2, 3]))]
        for question, answer in pairs:
            turns += [("user", question), ("assistant", answer)]
        return turns

    def faq(self):
        """Questions and answers as plain text, as in a manual."""
        rng = self.rng
        form = rng.choice(["Q: {}\nA: {}\n", "## {}\n\n{}\n", "{}\n{}\n", "**{}**\n{}\n", "Question: {}\nAnswer: {}\n"])
        pairs = []
        for fact in rng.sample([f for f in self.facts if f.kind != "smalltalk"], rng.randint(3, 9)):
            question, answer = self.about(fact, 0.1)
            pairs.append(form.format(question[:1].upper() + question[1:], answer))
        return "\n".join(pairs)

    def table(self):
        """Settings with their meaning, one a line."""
        rng = self.rng
        settings = [f for f in self.facts if f.setting]
        form = rng.choice(["{0}: {2} (default: {1})", "- `{0}`: {2}", "| `{0}` | {1} | {2} |", "{0}={3}\n# {2}"])
        return "\n".join(form.format(*f.setting[:2], f.answer, f.setting[2]) for f in rng.sample(settings, rng.randint(3, 7))) + "\n"

    def prose(self):
        rng = self.rng
        out = []
        for paragraph in rng.sample(self.paragraphs, rng.randint(2, 5)):
            sentences = expand(paragraph, rng, self.prose_words)
            out.append(re.sub(r"(^|[.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), sentences))
        return "\n\n".join(out) + "\n"

    def document(self):
        kind = self.rng.random()
        return self.faq() if kind < 0.5 else self.table() if kind < 0.6 else self.prose()


def tokens_of(t, turns, rng):
    """Ids and weights of a dialogue: full weight on what the model says, and on its end.

    Most last answers are broken off after some tokens: which answer to give is decided by then, and the
    place that the known rest would take is better spent on another question.
    """
    ids, weights = [], []
    newline = t.encode("\n")
    for role, content in turns:
        head = [t.start, *t.encode(role + "\n")]
        body = [*t.encode(content), t.end]
        told = role == "assistant"
        ids += head + body + newline
        weights += [0] * len(head) + [255 if told else QUESTION_WEIGHT] * len(body) + [0] * len(newline)
    surplus = len(body) + len(newline) - rng.randint(6, 11)
    if surplus > 0 and rng.random() < BROKEN_OFF:
        ids, weights = ids[:-surplus], weights[:-surplus]
    return ids, weights


def chat_rows(t, writer, count):
    """Dialogues packed into rows: ids, weights, and which dialogue of its row each token belongs to."""
    import numpy as np  # only the rows need it
    rows, masks, parts, waiting = [], [], [], []
    while len(rows) < count:
        while len(waiting) < 48:
            example = tokens_of(t, writer.dialogue(), writer.rng)
            if len(example[0]) <= CHAT_ROW:
                waiting.append(example)
        row, mask, part = [], [], []
        while True:
            fits = next((i for i, e in enumerate(waiting) if len(row) + len(e[0]) <= CHAT_ROW), None)
            if fits is None:
                break
            ids, weights = waiting.pop(fits)
            part += [part[-1] + 1 if part else 0] * len(ids)
            row, mask = row + ids, mask + weights
        empty = CHAT_ROW - len(row)
        rows.append(row + [t.eot] * empty)
        masks.append(mask + [0] * empty)
        parts.append(part + [255] * empty)
    return np.array(rows, np.uint16), np.array(masks, np.uint8), np.array(parts, np.uint8)


def prose_rows(t, writer, count):
    """Documents one after another, cut into rows."""
    import numpy as np
    stream = []
    while len(stream) < count * PROSE_ROW:
        stream += t.encode(writer.document()) + [t.eot]
    return np.array(stream[:count * PROSE_ROW], np.uint16).reshape(count, PROSE_ROW)


def forbidden():
    """What may not be trained on: the lines of the held-out text and our own test questions."""
    lines = (HERE / "heldout.txt").read_text().splitlines() if (HERE / "heldout.txt").exists() else []
    lines = [re.sub(r"^(Q: |## |\*\*|Question: )", "", line) for line in lines]
    dev = HERE / "dev_questions.jsonl"
    items = [json.loads(line) for line in dev.read_text().splitlines()] if dev.exists() else []
    lines += [item["question"] for item in items if "question" in item]
    return {normal(line) for line in lines if normal(line)}


def write_heldout():
    """heldout.txt: the hand-written heldout_prose.txt, then questions in wordings that training leaves out."""
    writer = Writer("heldout")
    parts = [(FOLDER / "heldout_prose.txt").read_text()]
    while sum(map(len, parts)) < 40_000:
        parts.append(writer.faq())
    (HERE / "heldout.txt").write_text("\n".join(parts))


def write_text(file, seed, size):
    """Plain text as in heldout.txt, drawn with another seed and without any of its lines: to calibrate with."""
    writer = Writer(seed, forbidden())
    bare = lambda line: normal(re.sub(r"^(Q: |A: |## |Question: |Answer: )", "", line))
    heldout = {bare(line) for line in (HERE / "heldout.txt").read_text().splitlines()} - {""}
    lines = []
    while sum(map(len, lines)) < size:
        lines += [line for line in writer.document().splitlines() if bare(line) not in heldout] + [""]
    Path(file).write_text("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=HERE.parents[1] / "build/guide/data", help="folder for the rows")
    parser.add_argument("--chat-rows", type=int, default=40000)
    parser.add_argument("--prose-rows", type=int, default=3000)
    parser.add_argument("--seed", default="guide-1")
    parser.add_argument("--tokenizer", action="store_true", help="train the tokenizer anew")
    parser.add_argument("--heldout", action="store_true", help="write heldout.txt anew")
    parser.add_argument("--text", metavar="FILE", help="write plain text for calibration to FILE and stop")
    parser.add_argument("--text-size", type=int, default=300_000, help="characters of it")
    parser.add_argument("--show", type=int, default=0, help="print so many dialogues and stop")
    args = parser.parse_args()
    if args.heldout:
        write_heldout()
    if args.text:
        return write_text(args.text, args.seed, args.text_size)
    import numpy as np
    writer = Writer(args.seed, forbidden())
    if args.show:
        for _ in range(args.show):
            print(writer.dialogue())
        print(writer.document())
        return
    if args.tokenizer or not tok.FILE.exists():
        texts = [content for _ in range(20000) for _, content in writer.dialogue()] + [writer.document() for _ in range(3000)]
        tok.Tokenizer(tok.train(texts)).save()
    t = tok.Tokenizer.load()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    ids, weights, parts = chat_rows(t, writer, args.chat_rows)
    prose = prose_rows(t, writer, args.prose_rows)
    for name, array in ("chat", ids), ("chat_weights", weights), ("chat_parts", parts), ("prose", prose):
        np.save(out / f"{name}.npy", array)
    print(f"{ids.size:,} chat tokens ({(weights == 255).mean():.0%} answers, {(ids == t.eot).mean():.0%} padding), {prose.size:,} prose tokens")


if __name__ == "__main__":
    main()
