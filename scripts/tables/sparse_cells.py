"""The cells of scripts/tables/sparse.sh: which runs there are, and their data.

A cell is target/model/kind-lr<rate>-s<seed>: a base model is tuned on a target's text by a method
at one learning rate. T4 and T10 have cells of their own, memory/<shape>/<kind>-s0 and
step/<shape>/<kind>-s0. Options of a run are a dict; "program" is which one of hone's, "verb" what
it is told, all others are its options.

Budgets are b<rank>: as many trained values as LoRA of that rank on all linear layers has. The
models are 32 to 64 times narrower than those that the literature tunes at ranks 16 to 256, so that
ranks 1 to 16 here are the same shares of the weights and more (rank 1 of babyllama: 1.2 %).
DoRA has pairs of that rank and its magnitudes besides, which count among its trained values.
"""

import gzip
import json
import os
import pathlib
import subprocess
from typing import NamedTuple

from cells import ROOT

SHAPES = ROOT / "bench" / "shapes"


class Model(NamedTuple):
    folder: str  # below HONE_DATA
    files: tuple
    hidden: int
    kv: int
    inner: int
    layers: int
    block: str  # of ABSD: the largest up to 16 x 16 that divides all matrices
    largest: str  # up to 256 x 256

    def rank_values(self, rank):
        """Values of LoRA pairs of this rank on all linear layers."""
        h, kv, f = self.hidden, self.kv, self.inner
        return rank * self.layers * (2 * (h + h) + 2 * (kv + h) + 3 * (f + h))


class Cell(NamedTuple):
    target: str
    model: str
    kind: str
    seed: int
    options: dict
    files: tuple

    @property
    def name(self):
        rate = f"-lr{self.options['lr']:g}" if "lr" in self.options else ""
        return f"{self.target}/{self.model}/{self.kind}{rate}-s{self.seed}"

    @property
    def verb(self):
        return self.options["verb"]


class Suite(NamedTuple):
    plan: tuple  # of (target, model, groups)
    shapes: tuple  # of T4, names of files in bench/shapes
    step_shapes: tuple  # of T10
    steps: int  # of a run
    train: dict  # options of all runs
    held_out: int  # bytes of each of the two held-out parts
    stories: int  # that the base model writes
    rates: dict  # learning rates by program, and of T6, where single values are few
    few: int = 0  # batches of selection 0; 0: as many as ABSD wants
    ranks: tuple = (2, 8)  # T1
    sweep: tuple = (1, 2, 4, 8, 16)  # T2
    grid: tuple = (2, 4, 8)  # T3
    longer: int = 4  # T3: times the steps
    densities: tuple = ("0.1%", "1%", "5%")  # T6
    middle: int = 4  # rank of T7 and T8
    memory: dict = {"batch-size": 1, "seq-len": 2048}
    step: dict = {"length": 2048, "steps": 8}
    step_batch: tuple = (8, 4)  # by shape


MODELS = {
    "babyllama": Model(
        "babyllama-char105",
        ("config.json", "model.safetensors", "tok105.model"),
        *(128, 64, 352, 5),
        *("16x16", "32x32"),
    ),
    "stories260k": Model(
        "stories260k",
        ("config.json", "model.safetensors", "tok512.bin"),
        *(64, 32, 172, 5),
        *("4x4", "4x4"),
    ),
}
TARGETS = {
    "shakespeare": ("tinyshakespeare/input.txt",),
    "wikitext2": ("wikitext-2/valid.txt.gz", "wikitext-2/test.txt.gz"),
    "gsm8k": ("gsm8k/train.jsonl.gz", "gsm8k/test.jsonl.gz"),
}

PLAN = (
    ("shakespeare", "babyllama", "main budgets grid scores blocks reselect"),
    ("wikitext2", "babyllama", "main"),
    ("gsm8k", "babyllama", "main"),
    ("shakespeare", "stories260k", "main"),
)
MORE = (
    ("wikitext2", "stories260k", "main"),
    ("gsm8k", "stories260k", "main"),
    ("wikitext2", "babyllama", "budgets grid scores"),
    ("gsm8k", "babyllama", "budgets grid scores reselect"),
    ("shakespeare", "stories260k", "budgets grid scores reselect"),
)


def whole(full):
    return Suite(
        plan=PLAN + MORE if full else PLAN,
        shapes=("llama-3.2-1b", "llama-3.1-8b"),
        step_shapes=("llama-3.2-1b", "llama-3.1-8b"),
        steps=400,
        train={"batch-size": 8, "seq-len": 256},
        held_out=1 << 16,
        stories=128,
        rates={
            "full": (3e-4, 1e-3, 3e-3),
            "lora": (1e-3, 3e-3, 1e-2, 3e-2),
            "sparse": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
            "score": (1e-3, 3e-3, 1e-2, 3e-2),
        },
    )


def smoke():
    """Every table in small, on a CPU: runs of a second, too short to say anything."""
    return Suite(
        plan=(
            ("shakespeare", "stories260k", "main budgets grid scores blocks reselect"),
            ("gsm8k", "babyllama", "short"),
        ),
        shapes=("llama-3.2-1b",),
        step_shapes=("tiny",),
        steps=20,
        train={"batch-size": 4, "seq-len": 64},
        held_out=1 << 12,
        stories=4,
        rates={"full": (1e-3,), "lora": (3e-3, 1e-2), "sparse": (1e-2,), "score": (1e-2,)},
        few=8,
        ranks=(2,),
        sweep=(1, 2, 4),
        grid=(2, 4),
        longer=2,
        densities=("0.5%", "5%"),
        middle=2,
        memory={"batch-size": 1, "seq-len": 64},
        step={"length": 64, "steps": 2, "warmup": 1, "dtype": "f32"},
        step_batch=(1,),
    )


# ---- kinds of runs ----


class Place(NamedTuple):
    """Where kinds are wanted: they are functions of it, and yield names and options."""

    suite: Suite
    model: Model

    def sparse(self, rank, **options):
        """hone-sparse at the budget of a rank."""
        o = {k.replace("_", "-"): v for k, v in options.items()}
        if "budget" not in o:
            o["budget"] = f"values:{self.model.rank_values(rank)}"
        if self.suite.few and o.get("preset", "absd").startswith("absd"):
            o.setdefault("select-batches", self.suite.few)
        return {"program": "sparse", "verb": "train", **o}

    def lora(self, rank):
        return {"program": "lora", "verb": "train", "rank": rank, "alpha": 2 * rank}

    def reselection(self, parts, **options):
        """Of ABSD: `parts` reselections in the whole run's length, windows within the intervals."""
        every = max(2, self.suite.steps // parts)
        window = max(2, min(8, every // 2))
        every_window = {"select_every": every, "select_window": window}
        return {"preset": "absd-dynamic", **every_window, **options}

    def methods(self, rank):
        """Kinds of T1 that have a budget. Literature's counts of steps are of runs that are ten
        times longer: selections stand at the same parts of the run."""
        m, steps = self.model, self.suite.steps
        yield f"lora-b{rank}", self.lora(rank)
        yield f"dora-b{rank}", {**self.lora(rank), "dora": "on"}
        yield f"absd-b{rank}", self.sparse(rank, block=m.block)
        yield f"dynamic-b{rank}", self.sparse(rank, block=m.block, **self.reselection(10))
        yield f"s2ft-b{rank}", self.sparse(rank, preset="s2ft")
        smt = {"preset": "smt", "block": m.largest, "select_batches": max(8, steps // 4)}
        yield f"smt-b{rank}", self.sparse(rank, **smt)
        spiel = {"preset": "spiel-ag", "select_every": max(6, steps // 20)}
        yield f"spiel-b{rank}", self.sparse(rank, **spiel)
        lift = {"preset": "lift", "lift_rank": rank, "select_every": steps // 4}
        yield f"lift-b{rank}", self.sparse(rank, **lift)


def main_kinds(p):
    yield "base", {"program": "full", "verb": "eval"}
    yield "full", {"program": "full", "verb": "train"}
    for rank in p.suite.ranks:
        yield from p.methods(rank)


def short_kinds(p):
    yield "base", {"program": "full", "verb": "eval"}
    yield "full", {"program": "full", "verb": "train"}
    rank = p.suite.ranks[-1]
    yield from (k for k in p.methods(rank) if k[0].split("-")[0] in ("lora", "absd"))


def budget_kinds(p):
    for rank in p.suite.sweep:
        for kind, options in p.methods(rank):
            if kind.split("-")[0] in ("lora", "absd", "smt", "lift"):
                yield kind, options


def grid_kinds(p):
    """RoSA's: LoRA, sparse, half and half; the mask by one batch and by many, short and longer."""
    alone = {"preset": "rosa", "lora_rank": 0, "lora_steps": 0}
    first = min(64, p.suite.steps // 5)
    for rank in p.suite.grid:
        half = p.model.rank_values(rank) // 2
        both = {"preset": "rosa", "lora_rank": rank // 2, "lora_steps": first}
        both.update(lora_alpha=rank, budget=f"values:{half}")  # alpha: twice the rank of the pairs
        for words, longer in (("", 1), ("-long", p.suite.longer)):
            more = {"steps": p.suite.steps * longer} if longer > 1 else {}
            yield f"lora-b{rank}{words}", {**p.lora(rank), **more}
            yield f"one-b{rank}{words}", {**p.sparse(rank, **alone), **more}
            many = p.sparse(rank, **alone, select_batches=32)
            yield f"many-b{rank}{words}", {**many, **more}
            yield f"rosa-b{rank}{words}", {**p.sparse(rank, **both), **more}


SCORES = ("random", "magnitude", "abs", "fisher", "snip", "lift", "gradient")


def score_kinds(p):
    for density in p.suite.densities:
        for score in SCORES:
            o = {"block": "1x1", "scope": "matrix", "score": score, "budget": density}
            if score == "lift":
                o["lift_rank"] = p.model.hidden // 8
            yield f"score-{score}-d{density[:-1]}", p.sparse(0, **o)


BLOCKS = ("1x1", "4x4", "16x16", "32x32", "64x64")


def divides(block, model, attention):
    n = int(block.split("x")[0])
    sizes = (model.hidden, model.kv) if attention else (model.hidden, model.kv, model.inner)
    return all(size % n == 0 for size in sizes)


def block_kinds(p):
    """All matrices, and those of attention, which larger blocks divide."""
    attention = {"targets": "q_proj,k_proj,v_proj,o_proj"}
    rank = p.suite.middle
    for block in BLOCKS:
        if divides(block, p.model, False):
            yield f"block-{block}", p.sparse(rank, block=block)
        if divides(block, p.model, True):
            yield f"attention-{block}", p.sparse(rank, block=block, **attention)


def reselect_kinds(p):
    rank, block = p.suite.middle, p.model.block
    dynamic = lambda parts, **o: p.sparse(rank, block=block, **p.reselection(parts, **o))
    yield f"absd-b{rank}", p.sparse(rank, block=block)
    for parts in (50, 20, 10, 5):
        if p.suite.steps // parts >= 4:
            yield f"every-{parts}", dynamic(parts)
    for replace in (0.1, 0.5):
        yield f"replace-{replace}", dynamic(10, replace=replace)
    yield "keep", dynamic(10, on_drop="keep")
    yield "dynamic-unseeded", dynamic(10, seed_moments="off")


GROUPS = {
    "main": main_kinds,
    "short": short_kinds,
    "budgets": budget_kinds,
    "grid": grid_kinds,
    "scores": score_kinds,
    "blocks": block_kinds,
    "reselect": reselect_kinds,
}


def cells_of(suite, target, model_name, groups, seeds, settings):
    model = MODELS[model_name]
    files = TARGETS[target] + tuple(f"{model.folder}/{name}" for name in model.files)
    place = Place(suite, model)
    kinds = {}
    for group in groups.split():
        for kind, options in GROUPS[group](place):
            kinds.setdefault(kind, options)
    common = {**suite.train, **settings}
    for seed in seeds:
        for kind, options in kinds.items():
            if options["verb"] == "eval":  # nothing in it is random
                if seed == seeds[0]:
                    yield Cell(target, model_name, kind, 0, {**common, **options}, files)
                continue
            key = "score" if kind.startswith("score-") else options["program"]
            for rate in suite.rates[key]:
                o = {**common, "steps": suite.steps, **options, "lr": rate, "seed": seed}
                yield Cell(target, model_name, kind, seed, o, files)


def memory_cells(suite):
    kinds = {
        "full": {"program": "full"},
        "lora-r16": {"program": "lora", "rank": 16},
        "sparse-r16": {"program": "sparse", "budget": "lora:16", "block": "32x32"},
        **{
            f"sparse-{share}": {"program": "sparse", "budget": f"{share}%", "block": "32x32"}
            for share in (0.6, 1.2, 5)
        },
    }
    for shape in suite.shapes:
        for kind, options in kinds.items():
            for recompute in ("off", "on"):
                # more than any GPU has, so that a plan is made of what would not fit, too
                o = {"verb": "plan", **options, **suite.memory, "recompute": recompute}
                o.update(memory=4096, dtype="bf16")
                yield Cell("memory", shape, f"{kind}-recompute-{recompute}", 0, o, ())


def step_cells(suite):
    kinds = {"full": {"full": "on"}, "lora-r16": {"rank": 16}}
    for block in (1, 4, 16, 32, 64, 128, 256):
        kinds[f"block-{block}"] = {"block": block}
    kinds["block-1-0.1%"] = {"block": 1, "density": 0.001}
    for gather in ("scores", "window"):
        kinds[f"block-32-{gather}"] = {"block": 32, "gather": gather}
    for shape, batch in zip(suite.step_shapes, suite.step_batch):
        for kind, options in kinds.items():
            block = options.get("block", 1)
            if shape == "tiny" and block > 32:  # its matrices are 32 to 128
                continue
            if shape == "llama-3.1-8b" and kind == "full":  # T4: more than a GPU has
                continue
            o = {"program": "bench-step", "verb": "profile", "batch": batch, **suite.step}
            yield Cell("step", shape, kind, 0, {**o, **options}, ())


def make(suite, seeds, settings):
    """All cells, each once, in the order of the plan."""
    cells = {}
    for target, model, groups in suite.plan:
        for cell in cells_of(suite, target, model, groups, seeds, settings):
            cells.setdefault(cell.name, cell)
    for cell in (*memory_cells(suite), *step_cells(suite)):
        cells[cell.name] = cell
    return list(cells.values())


# ---- data, written once into DIR/data ----


def read_text(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def questions(path):
    rows = (json.loads(line) for line in read_text(path).splitlines())
    return "".join(f"Question: {r['question']}\nAnswer: {r['answer']}\n\n" for r in rows)


def parts_of(target, data, n):
    """train, valid, test: the two held-out ones have n bytes each."""
    texts = [questions(data / f) if "jsonl" in f else read_text(data / f) for f in TARGETS[target]]
    train, held = texts if len(texts) == 2 else (texts[0][: -3 * n], texts[0][-3 * n :])
    cut = lambda at: held.find("\n", at) + 1  # at the end of a line
    middle = cut(len(held) // 2)
    return {"train": train, "valid": held[: cut(n)], "test": held[middle : cut(middle + n)]}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def story(program, model, seed, tokens):
    words = [program, "generate", f"--model={model}", "--temperature=1", f"--seed={seed}"]
    words += [f"--max-new-tokens={tokens}", "--device=cpu"]
    run = subprocess.run(words, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{program} generate: {run.stderr.strip().splitlines()[-1]}")
    return run.stdout.replace("\\342\\201\\207", "").strip()  # the sign of an unknown token


def prepare(suite, chosen, data, out, program):
    """Targets' parts and the base models' own stories, of what the cells read and is not there."""
    to = out / "data"
    for target in {c.target for c in chosen if c.target in TARGETS}:
        if not (to / target / "test.txt").exists():
            for part, text in parts_of(target, pathlib.Path(data), suite.held_out).items():
                write(to / target / f"{part}.txt", text)
    for name in {c.model for c in chosen if c.target in TARGETS}:
        path = to / name / "source.jsonl"
        if path.exists():
            continue
        model = f"{data}/{MODELS[name].folder}"
        texts = [story(program, model, seed, 240) for seed in range(suite.stories)]
        write(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))
