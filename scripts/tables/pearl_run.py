"""Runs the cells of pearl.sh, some at a time, and prints their tables.

    scripts/tables/pearl.sh [--smoke | --full | --only REGEX] [--seeds 0,1,2] [--epochs N]
                            [--out DIR] [--jobs N] [--shard i/n] [--device D] [--dtype T]

A cell is one run of hone-pearl: DIR/<cell>.json is its result.json with what was asked for,
DIR/<cell>.ranks.csv the ranks of its layers, DIR/<cell>.log what it said. A cell whose JSON is
there is not run again; one that was run with other options is an error. Its networks (DIR/<cell>/)
are removed when it is done, but for --keep-runs. A cell that takes longer than --limit seconds is
stopped with a checkpoint and goes on in the next call; one that fails is named, the others go on
and the call ends with 1. Tables (Markdown) go to standard output and DIR/pearl.md, pictures to DIR
where gnuplot is (pearl_table.py; --tables-only makes them of what is there).

Without --full: equal parameters and baselines on ten tasks of CIFAR-100 with the three kinds of
networks, baselines on the other streams. --full adds sweeps, ablations, and equal parameters
everywhere. --only takes of all cells those whose name matches. Data are found through HONE_DATA
(default ../shared/data); a stream reads its own files alone (--list).
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys

import cells
import pearl_cells
import pearl_table


def arguments(work):
    p = argparse.ArgumentParser(
        prog="pearl.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cells.add_arguments(p, "pearl", [0, 1, 2], [0, 1])
    p.add_argument(
        "--epochs", type=float, help="of a task, for all networks; default: each its own"
    )
    p.add_argument("--dtype", choices=("f32", "bf16"), help="default: bf16, with --smoke f32")
    p.add_argument("--program", default=str(cells.ROOT / "build" / "hone-pearl"))
    a = p.parse_args()
    cells.settle(work, a)
    a.dtype = a.dtype or ("f32" if a.smoke else "bf16")
    return a


def suite_of(a):
    for name in pearl_cells.MNIST if a.smoke else ():
        if not (pathlib.Path(a.data) / name).exists():
            cells.fail("pearl.sh", f"--smoke: no {a.data}/{name}; set HONE_DATA")
    if a.smoke:
        return pearl_cells.smoke(a.data, a.out)
    return pearl_cells.whole(a.full or a.only)


class PearlWork(cells.Work):
    script = "pearl.sh"

    def __init__(self):
        self.suite, self.shapes = None, {}

    def files(self, cell):
        return pearl_cells.files_of(self.suite, cell)

    def budget_of(self, a, cell):
        """Parameters of rank cell.budget_rank in all layers, as --strategy lora counts them: layers
        from their cap on are dense. The layers' shapes are those that hone-pearl check prints."""
        key = cell.stream, cell.model
        if key not in self.shapes:
            options = {k: v for k, v in cell.options.items() if k not in ("energy", "dtype")}
            words = cells.words_of({**options, "device": "cpu"}, a.data)
            run = subprocess.run([a.program, "check", *words], capture_output=True, text=True)
            rows = re.findall(r"^\S+ +(\d+) +(\d+) +(\d+) +\d+$", run.stdout, re.MULTILINE)
            if run.returncode != 0 or not rows:
                cells.fail(
                    self.script, f"{a.program} check: {run.stderr.strip().splitlines()[-1:]}"
                )
            self.shapes[key] = [tuple(map(int, row)) for row in rows]
        k = cell.budget_rank
        return sum(m * n if k >= cap else k * (m + n) for m, n, cap in self.shapes[key])

    def next(self, a, cell, run):
        kept = run / "result.json"
        result = json.loads(kept.read_text()) if kept.exists() else {}
        if result.get("after_task", 0) == result.get("tasks", -1):
            return None
        options = {**cell.options, "device": a.device, "out": run, "log-every": 1000000}
        if a.device != "cpu":  # several would take larger steps
            options["gpus"] = 1
        if cell.budget_rank:
            options["budget"] = self.budget_of(a, cell)
        if (run / "index.json").exists():
            options["resume"] = "auto"
        else:
            shutil.rmtree(run, ignore_errors=True)
        return cells.Command("train", [a.program, "train", *cells.words_of(options, a.data)])

    def result(self, a, cell, run, seconds):
        if (run / "ranks.csv").exists():
            shutil.copy(run / "ranks.csv", cells.path_of(a, cell, ".ranks.csv"))
        return json.loads((run / "result.json").read_text())

    def summary(self, result):
        return f"{100 * result['metrics']['AverageAccuracy']:.2f} %"


def main():
    work = PearlWork()
    a = arguments(work)
    work.suite = suite_of(a)
    settings = {"dtype": a.dtype, **({"epochs": a.epochs} if a.epochs else {})}
    chosen = cells.choose(work, a, pearl_cells.make(work.suite, a.seeds, settings))
    if a.list:
        cells.show(work, a, chosen)
        return 0
    good = a.tables_only or cells.execute(work, a, chosen, [a.program])
    text = pearl_table.tables(a.out, [cell.name for cell in chosen])
    print(text)
    if a.out.is_dir():
        (a.out / "pearl.md").write_text(text)
        pearl_table.pictures(a.out)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
