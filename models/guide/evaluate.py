"""Asks a list of questions and scores the greedy answers.

Each line of the list is {"question": ..., "accept": [regular expression, ...]}: all must be found in the
answer, whatever the case. {"turns": [first question, second question]} instead of "question" asks both in one talk.
"""
import argparse
import json
import re
from pathlib import Path

import torch

import model
from tokenizer import Tokenizer


def answer(weights, config, t, questions):
    """The answer to the last of the questions, asked one after another."""
    messages = []
    for question in questions:
        messages.append(("user", question))
        text = t.decode(model.greedy(weights, config, t.prompt(messages), t.end))
        messages.append(("assistant", text))
    return text


def score(weights, config, t, items):
    """How many are right, and the failures as (questions, answer)."""
    failures = []
    for item in items:
        questions = item.get("turns") or [item["question"]]
        text = answer(weights, config, t, questions)
        if not all(re.search(pattern, text, re.IGNORECASE) for pattern in item["accept"]):
            failures.append((" / ".join(questions), text))
    return len(items) - len(failures), failures


def read_items(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


def main():
    from checkpoint import load_checkpoint
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("questions", nargs="?", default=here / "dev_questions.jsonl")
    parser.add_argument("--checkpoint", default=here / "checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(2)
    weights, config = load_checkpoint(args.checkpoint)
    items = read_items(args.questions)
    right, failures = score(weights, config, Tokenizer.load(), items)
    for question, text in failures:
        print(f"- {question}\n  {text}")
    print(f"{right} of {len(items)} right")


if __name__ == "__main__":
    main()
