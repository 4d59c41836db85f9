#!/usr/bin/env python3
"""Writes the demo's texts: little stories to pretrain on, a ship's log to fine-tune on.

    make_demo_text.py stories [--bytes 3000000] [--seed 1] --out stories.jsonl
    make_demo_text.py voyage  [--bytes 200000]  [--seed 2] --out assets/demo/voyage.txt

Both are grammars written for this project (demo_words.py, demo_stories.py, demo_voyage.py): plain
ASCII, standard library only, the same bytes on every Python 3.8 or newer. Stories are rows
{"text": ...}, one a line, or, with a name that ends in .txt, separated by blank lines. No story and
no log entry is written twice.
"""

import argparse
import json

from demo_stories import story
from demo_voyage import voyage
from demo_words import Dice


def write_stories(path, n_bytes, seed):
    dice, seen, total = Dice(seed), set(), 0
    with open(path, "w", encoding="ascii", newline="\n") as f:
        while total < n_bytes:
            text = story(dice)
            if text in seen:
                continue
            seen.add(text)
            f.write(text + "\n\n" if path.endswith(".txt") else json.dumps({"text": text}) + "\n")
            total += len(text)
    print(f"{path}: {len(seen)} stories, {total} characters")


def write_voyages(path, n_bytes, seed):
    dice, total, count = Dice(seed), 0, 0
    with open(path, "w", encoding="ascii", newline="\n") as f:
        while total < n_bytes:
            for entry in voyage(dice, count):
                f.write(entry + "\n\n")
                total += len(entry) + 2
                if total >= n_bytes:
                    break
            count += 1
    print(f"{path}: {count} voyages, {total} characters")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("kind", choices=["stories", "voyage"])
    p.add_argument("--bytes", type=int)
    p.add_argument("--seed", type=int)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    write, n_bytes, seed = {
        "stories": (write_stories, 3_000_000, 1),
        "voyage": (write_voyages, 200_000, 2),
    }[a.kind]
    write(
        a.out, a.bytes if a.bytes is not None else n_bytes, a.seed if a.seed is not None else seed
    )


if __name__ == "__main__":
    main()
