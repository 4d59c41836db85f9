#!/usr/bin/env python3
"""Writes the demo's texts: little stories and notes to pretrain on, a ship's log to fine-tune on.

    make_demo_text.py stories [--bytes 3000000] [--seed 1] --out stories.jsonl
    make_demo_text.py voyage  [--bytes 200000]  [--seed 2] --out assets/demo/voyage.txt

Both are grammars written for this project (demo_stories.py, demo_notes.py, demo_voyage.py): plain
ASCII, standard library only, the same bytes on every Python 3.8 or newer. A quarter of the stories
are notes: diaries, letters, lists, lessons. A name that ends in .jsonl gets rows {"text": ...}, any
other plain text with blank lines between stories or entries. No story is written twice.
"""

import argparse
import json

from demo_notes import note
from demo_stories import story
from demo_voyage import voyage
from demo_words import Dice

NOTES = 0.25  # share of notes among the stories


def stories(dice, n_bytes):
    seen, total = set(), 0
    while total < n_bytes:
        text = note(dice) if dice.chance(NOTES) else story(dice)
        if text not in seen:
            seen.add(text)
            total += len(text)
            yield text


def log_entries(dice, n_bytes):
    total = number = 0
    while True:
        for entry in voyage(dice, number):
            yield entry
            total += len(entry)
            if total >= n_bytes:
                return
        number += 1


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("kind", choices=["stories", "voyage"])
    p.add_argument("--bytes", type=int)
    p.add_argument("--seed", type=int)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    make, n_bytes, seed = {
        "stories": (stories, 3_000_000, 1),
        "voyage": (log_entries, 200_000, 2),
    }[a.kind]
    n_bytes = n_bytes if a.bytes is None else a.bytes
    texts = list(make(Dice(seed if a.seed is None else a.seed), n_bytes))
    with open(a.out, "w", encoding="ascii", newline="\n") as f:
        if a.out.endswith(".jsonl"):
            f.writelines(json.dumps({"text": t}) + "\n" for t in texts)
        else:
            f.write("\n\n".join(texts) + "\n")
    print(f"{a.out}: {len(texts)} texts, {sum(map(len, texts))} characters")


if __name__ == "__main__":
    main()
