"""Runs the cells of sparse.sh, some at a time, and prints their tables.

    scripts/tables/sparse.sh [--smoke | --full | --only REGEX] [--seeds 0,1,2,3,4] [--all-rates]
                             [--out DIR] [--jobs N] [--shard i/n] [--device D] [--dtype T]
                             [--programs DIR]

A cell is one run of hone-full, hone-lora or hone-sparse at one learning rate, judged on two parts
of the target's text that training never sees (valid chooses the rate, test is what the tables show)
and on text that the base model has written (source: what was forgotten); or a memory plan (T4), or
a profile of steps (T10), which needs a GPU. DIR/<cell>.json is what came of it, DIR/<cell>.log what
the programs said, DIR/data the texts, written once. A cell whose JSON is there is not run again;
one that was run with other options is an error. Its files (DIR/<cell>/) are removed when it is
done, but for --keep-runs. A cell that takes longer than --limit seconds is stopped with a
checkpoint and goes on in the next call; one that fails is named, the others go on and the call
ends with 1. The first seed tries all learning rates, the others run at the one that was best for it
by valid (--all-rates: every seed at every rate). Tables (Markdown) go to standard output and
DIR/sparse.md, pictures to DIR where gnuplot is (sparse_table.py; --tables-only makes them of what
is there).

Without --full: all tables on babyllama-char105 and Shakespeare, T1 on two more targets and with
stories260k. --full adds the other tables there. --only takes of all cells those whose name matches.
Data are found through HONE_DATA (default ../shared/data).
"""

import argparse
import csv
import glob
import json
import os
import pathlib
import re
import shutil
import sys

import cells
import sparse_cells
import sparse_table
from sparse_cells import MODELS, SHAPES, TARGETS

RESULT = {"full": "model", "lora": "adapter", "sparse": "delta"}  # folder in that of a run


def arguments(work):
    p = argparse.ArgumentParser(
        prog="sparse.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cells.add_arguments(p, "sparse", [0, 1, 2, 3, 4], [0, 1])
    p.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="of models and targets")
    p.add_argument(
        "--programs", default=str(cells.ROOT / "build"), help="folder of hone's programs"
    )
    p.add_argument("--all-rates", action="store_true", help="with every seed")
    a = p.parse_args()
    cells.settle(work, a)
    a.programs = pathlib.Path(a.programs)
    return a


# ---- what a cell does ----


class SparseWork(cells.Work):
    script = "sparse.sh"

    def files(self, cell):
        return cell.files

    def program(self, a, cell):
        return str(a.programs / f"hone-{cell.options['program']}")

    def why_not(self, a, cell):
        if cell.target != "step":
            return None
        if not os.access(self.program(a, cell), os.X_OK):
            return f"there is no program {self.program(a, cell)}"
        smoke = cell.model == "tiny"
        has_gpu = a.device != "cpu" and bool(glob.glob("/dev/nvidia[0-9]*"))
        return None if smoke or has_gpu else "needs a GPU, and there is none"

    def alone(self, cell):
        return cell.target == "step"

    def words(self, a, cell, verb, **more):
        """program verb --options, {data} being the texts of DIR/data."""
        own = {k: v for k, v in cell.options.items() if k not in ("program", "verb")}
        o = {**own, **{k.replace("_", "-"): v for k, v in more.items()}, "device": a.device}
        if cell.target == "step" and a.device == "auto":
            o["device"] = "cuda"
        return [self.program(a, cell), *([verb] if verb else []), *cells.words_of(o, a.data)]

    def next(self, a, cell, run):
        if cell.verb == "train" or cell.verb == "eval":
            return self.next_of_training(a, cell, run)
        if (run / "out").exists():
            return None
        shape = SHAPES / f"{cell.model}.json"
        if cell.verb == "plan":
            words = self.words(a, cell, "plan", model=shape)
        else:
            words = self.words(a, cell, None, model=shape) + ["--profile"]
        return cells.Command(cell.verb, words, run / "out")

    def next_of_training(self, a, cell, run):
        base = f"{a.data}/{MODELS[cell.model].folder}"
        texts, own = a.out / "data" / cell.target, a.out / "data" / cell.model
        result = run / RESULT[cell.options["program"]]
        said = run / "said"  # a run that was stopped says so, too, but leaves no result
        if cell.verb == "train" and not (said.exists() and result.exists()):
            resume = {"resume": "auto"} if list(run.glob("checkpoint-*/COMPLETE")) else {}
            if not resume:
                shutil.rmtree(run, ignore_errors=True)
            files = {"data": texts / "train.txt", "eval_data": texts / "valid.txt"}
            more = {"out": run, "keep": 1, "result": "last", "log_every": 1000000, **resume}
            if a.device != "cpu":  # several would take larger steps
                more["gpus"] = 1
            cache = {"cache_dir": a.out / "data" / "tokens"}
            words = self.words(a, cell, "train", model=base, **files, **cache, **more)
            return cells.Command("resume" if resume else "train", words, said)
        for part, path in (("test", texts / "test.txt"), ("source", own / "source.jsonl")):
            if not (run / part).exists():
                words = self.eval_words(a, cell, base, result, path)
                return cells.Command(part, words, run / part)
        return None

    def eval_words(self, a, cell, base, result, path):
        options = {"model": base, "data": path, "device": a.device, "cache-dir": "off"}
        if cell.verb == "train" and cell.options["program"] == "full":
            options["model"] = result
        elif cell.verb == "train":
            options["adapter"] = result
        for key in ("batch-size", "seq-len", "dtype"):
            options[key] = cell.options[key]
        return [self.program(a, cell), "eval", *cells.words_of(options, a.data)]

    # ---- what its JSON keeps ----

    def result(self, a, cell, run, seconds):
        if cell.verb == "profile":
            return {"operations": operations_of((run / "out").read_text())}
        log = cells.path_of(a, cell, ".log").read_text()
        log += "".join(f.read_text() for f in (run / "said", run / "out") if f.exists())
        if cell.verb == "plan":
            device = re.findall(r"^device: (.*)", log, re.MULTILINE)[-1]
            return {"plan": plan_of((run / "out").read_text()), "device": device}
        found = {part: loss_of(run / part) for part in ("test", "source")}
        found["device"] = re.findall(r"^device: (.*)", log, re.MULTILINE)[-1]
        if cell.verb == "eval":
            return found
        result = run / RESULT[cell.options["program"]]
        found.update(losses_of(run / "metrics.csv"))
        found["trained"] = int(re.findall(r"^trained: (\d+) values", log, re.MULTILINE)[-1])
        found["plan_gib"] = float(re.findall(r"^  total +([\d.]+) GiB", log, re.MULTILINE)[-1])
        found["file_bytes"] = sum(f.stat().st_size for f in result.glob("*.safetensors"))
        found["train_s"] = seconds.get("train")  # None: in more than one call
        found["selections"] = selections_of(log)
        return found

    def summary(self, result):
        if "test" in result:
            return f"test loss {result['test']:.4f}"
        return f"{result['plan']['total']:.2f} GiB" if "plan" in result else "profiled"


def loss_of(path):
    return float(re.search(r"^loss ([\d.eE+-]+)", path.read_text(), re.MULTILINE)[1])


def losses_of(path):
    """Held-out losses at start and end, and what the steps said of themselves."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    valid = [float(r["eval_loss"]) for r in rows if r["eval_loss"]]
    speed = sorted(float(r["tokens_per_s"]) for r in rows if r["tokens_per_s"])
    peak = [float(r["peak_gib"]) for r in rows if r["peak_gib"]]
    return {
        "valid_before": valid[0],
        "valid": valid[-1],
        "tokens_per_s": speed[len(speed) // 2],
        "peak_gib": max(peak),
    }


def selections_of(log):
    """[[step, replaced, blocks]] of the reselections; those that a resume has repeated once."""
    line = r"^selection behind step (\d+): (\d+) of (\d+) blocks replaced"
    found = {int(s): [int(s), int(r), int(n)] for s, r, n in re.findall(line, log, re.MULTILINE)}
    return [found[step] for step in sorted(found)]


def plan_of(text):
    """GiB by class of memory, as `plan` prints them."""
    rows = re.findall(r"^  ([a-z][a-z ]*?) +([\d.]+) GiB", text, re.MULTILINE)
    return {name: float(gib) for name, gib in rows}


def operations_of(text):
    """[[operation, operands, calls, ms a step]], as --profile prints them."""
    rows = re.findall(r"^\| (\w+) \| (\[.*?) \| (\d+) \| [\d.]+ \| ([\d.]+) \|", text, re.MULTILINE)
    return [[name, operands, int(calls), float(ms)] for name, operands, calls, ms in rows]


# ---- main ----


def prepare(a, suite, chosen):
    """The texts, before the first cell that reads them."""
    read = [c for c in chosen if c.target in TARGETS]
    settings = {"held_out": suite.held_out, "stories": suite.stories}
    kept = a.out / "data" / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        cells.fail("sparse.sh", f"{kept.parent} has texts of other sizes; another --out")
    if any(not (a.out / "data" / c.target / "test.txt").exists() for c in read) or any(
        not (a.out / "data" / c.model / "source.jsonl").exists() for c in read
    ):
        try:
            sparse_cells.write(kept, json.dumps(settings) + "\n")
            sparse_cells.prepare(suite, read, a.data, a.out, str(a.programs / "hone-full"))
        except (OSError, RuntimeError) as error:
            cells.fail("sparse.sh", error)


def in_stages(a, chosen):
    """Cells of the first seed, and those without a rate; of the others those at the rate that was
    best there, and those of kinds of which not all rates were tried."""
    early = [c for c in chosen if a.all_rates or c.seed == a.seeds[0] or "lr" not in c.options]
    early_names = {c.name for c in early}
    tried = {}  # of what was asked for; {kind: {rate: cell}}
    for c in early:
        if "lr" in c.options:
            tried.setdefault((c.target, c.model, c.kind), {})[c.options["lr"]] = c
    best = {}
    for key, rates in tried.items():
        kept = {rate: cells.path_of(a, c, ".json") for rate, c in rates.items()}
        if all(path.exists() for path in kept.values()):
            valid = lambda rate: json.loads(kept[rate].read_text())["valid"]
            best[key] = min(sorted(kept), key=valid)
    ready, waiting = [], []
    for c in (c for c in chosen if c.name not in early_names):
        key = (c.target, c.model, c.kind)
        if key not in best:
            waiting.append(c)
        elif c.options["lr"] == best[key]:
            ready.append(c)
    return early, ready, waiting


def run(work, a, chosen, programs, prepare):
    """Whether all is there then."""
    early, _, _ = in_stages(a, chosen)
    good = cells.execute(work, a, early, programs, prepare) if early else True
    if good is None:
        return False
    _, ready, waiting = in_stages(a, chosen)
    if ready:
        good = bool(cells.execute(work, a, ready, programs, prepare)) and good
    if waiting:
        print(f"{len(waiting)} cells wait for the choice of their rate", file=sys.stderr)
    return good and not waiting


def main():
    work = SparseWork()
    a = arguments(work)
    suite = sparse_cells.smoke() if a.smoke else sparse_cells.whole(a.full or a.only)
    all_cells = sparse_cells.make(suite, a.seeds, {"dtype": a.dtype})
    chosen = cells.choose(work, a, all_cells)
    early, ready, waiting = in_stages(a, chosen)
    if a.list:
        cells.show(work, a, early + ready)
        for cell in waiting:
            print(f"{cell.name}\twaits for its rate\t{' '.join(cell.files)}")
        return 0
    good = True
    if not a.tables_only:
        names = {c.options["program"] for c in chosen} - {"bench-step"}
        programs = [str(a.programs / f"hone-{name}") for name in sorted(names | {"full"})]
        good = run(work, a, chosen, programs, lambda todo: prepare(a, suite, todo))
        early, ready, waiting = in_stages(a, chosen)
    text = sparse_table.tables(a.out, [cell.name for cell in early + ready + waiting])
    print(text)
    if a.out.is_dir():
        (a.out / "sparse.md").write_text(text)
        sparse_table.pictures(a.out)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
