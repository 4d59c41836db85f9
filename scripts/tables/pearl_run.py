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
import math
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pearl_cells
import pearl_table

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fail(text):
    print(f"pearl.sh: {text}", file=sys.stderr)
    sys.exit(2)


def whole_numbers(text):
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': whole numbers with commas between") from None


def shard(text):
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"'{text}': i/n with i from 1 to n")
    return int(found[1]), int(found[2])


def arguments():
    p = argparse.ArgumentParser(
        prog="pearl.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = p.add_mutually_exclusive_group()
    which.add_argument("--smoke", action="store_true", help="small networks, few images, on a CPU")
    which.add_argument("--full", action="store_true")
    p.add_argument("--only", type=re.compile, help="cells whose name this expression is found in")
    p.add_argument("--list", action="store_true", help="cells and the files they read; runs none")
    p.add_argument("--tables-only", action="store_true", help="runs none")
    p.add_argument("--out", help="default: runs/pearl, with --smoke runs/pearl-smoke")
    p.add_argument("--jobs", type=int, default=1, help="cells at a time")
    p.add_argument("--shard", type=shard, default=(1, 1), help="i/n: every n-th cell from the i-th")
    p.add_argument("--seeds", type=whole_numbers, help="default: 0,1,2, with --smoke 0,1")
    p.add_argument(
        "--epochs", type=float, help="of a task, for all networks; default: each its own"
    )
    p.add_argument("--device", help="of hone-pearl; default: auto, with --smoke cpu")
    p.add_argument("--dtype", choices=("f32", "bf16"), help="default: bf16, with --smoke f32")
    p.add_argument("--limit", type=float, default=450, help="seconds of a cell in one call")
    p.add_argument("--keep-runs", action="store_true", help="with networks: up to 0.5 GB a cell")
    p.add_argument("--program", default=str(ROOT / "build" / "hone-pearl"))
    a = p.parse_args()
    if a.only and a.full:
        fail("--only chooses among all cells; --full means nothing beside it")
    if a.jobs < 1:
        fail(f"--jobs {a.jobs}: at least 1")
    a.data = os.environ.get("HONE_DATA", str(ROOT.parent / "shared" / "data"))
    a.out = pathlib.Path(a.out or ROOT / "runs" / ("pearl-smoke" if a.smoke else "pearl"))
    a.seeds = a.seeds or ([0, 1] if a.smoke else [0, 1, 2])
    a.device = a.device or ("cpu" if a.smoke else "auto")
    a.dtype = a.dtype or ("f32" if a.smoke else "bf16")
    return a


# ---- which cells ----


def choose(a):
    """The suite, and its cells that this call is to see to."""
    for name in pearl_cells.MNIST if a.smoke else ():
        if not (pathlib.Path(a.data) / name).exists():
            fail(f"--smoke: no {a.data}/{name}; set HONE_DATA")
    if a.smoke:
        suite = pearl_cells.smoke(a.data, a.out)
    else:
        suite = pearl_cells.whole(a.full or a.only)
    settings = {"dtype": a.dtype, **({"epochs": a.epochs} if a.epochs else {})}
    cells = pearl_cells.make(suite, a.seeds, settings)
    if a.only:
        cells = [c for c in cells if a.only.search(c.name)]
    i, n = a.shard
    cells = cells[i - 1 :: n]
    if not cells:
        fail("no cell is left: --list without --only and --shard shows their names")
    return suite, cells


def path_of(a, cell, ending):
    return a.out / f"{cell.name}{ending}"


def asked_of(cell):
    """What identifies a cell's run, as its JSON keeps it."""
    text = lambda v: f"{v:g}" if isinstance(v, float) else str(v)
    return {"name": cell.name, "options": {k: text(v) for k, v in cell.options.items()}}


def is_done(a, cell):
    path = path_of(a, cell, ".json")
    if not path.exists():
        return False
    kept, now = json.loads(path.read_text())["asked"]["options"], asked_of(cell)["options"]
    other = [k for k in sorted(kept | now) if kept.get(k) != now.get(k)]
    if other:
        k = other[0]
        fail(
            f"{path} was made with {k}={kept.get(k)}, not {now.get(k)}; another --out, or remove it"
        )
    return True


def show(a, suite, cells):
    for cell in cells:
        state = "done" if is_done(a, cell) else "-"
        print(f"{cell.name}\t{state}\t{' '.join(pearl_cells.files_of(suite, cell))}")


# ---- budgets ----


def budget_of(a, cell, known):
    """Parameters of rank cell.budget_rank in all layers, as --strategy lora counts them: layers
    from their cap on are dense. The layers' shapes are those that hone-pearl check prints."""
    key = cell.stream, cell.model
    if key not in known:
        options = {k: v for k, v in cell.options.items() if k not in ("energy", "dtype")}
        words = pearl_cells.words_of({**options, "device": "cpu"}, a.data)
        run = subprocess.run([a.program, "check", *words], capture_output=True, text=True)
        rows = re.findall(r"^\S+ +(\d+) +(\d+) +(\d+) +\d+$", run.stdout, re.MULTILINE)
        if run.returncode != 0 or not rows:
            fail(f"{a.program} check: {run.stderr.strip().splitlines()[-1:]}")
        known[key] = [tuple(map(int, row)) for row in rows]
    k = cell.budget_rank
    return sum(m * n if k >= cap else k * (m + n) for m, n, cap in known[key])


# ---- running ----


class Runner:
    def __init__(self, a, suite, cells):
        self.a, self.suite, self.todo = a, suite, cells
        self.running, self.failed, self.unfinished = [], [], []
        self.done, self.total, self.began, self.shapes = 0, len(cells), time.monotonic(), {}
        self.env = dict(os.environ)
        threads = max(1, (os.cpu_count() or 1) // a.jobs)
        self.env.setdefault("OMP_NUM_THREADS", str(threads))

    def start(self, cell):
        a, run = self.a, path_of(self.a, cell, "")
        options = {**cell.options, "device": a.device, "out": run, "log-every": 1000000}
        if cell.budget_rank:
            options["budget"] = budget_of(a, cell, self.shapes)
        if (run / "index.json").exists():
            options["resume"] = "auto"
        else:
            shutil.rmtree(run, ignore_errors=True)
        run.parent.mkdir(parents=True, exist_ok=True)
        words = [a.program, "train", *pearl_cells.words_of(options, a.data)]
        log = path_of(a, cell, ".log").open("a")
        print("$", *words, file=log, flush=True)
        process = subprocess.Popen(words, stdout=log, stderr=log, env=self.env)
        log.close()
        now = time.monotonic()
        self.running.append((cell, process, now, now + a.limit))

    def say(self, cell, what):
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        print(
            f"{self.done}/{self.total}  {cell.name}  {what}  ({left:.0f} s left)", file=sys.stderr
        )

    def finish(self, cell, code, seconds):
        run, path = path_of(self.a, cell, ""), path_of(self.a, cell, ".json")
        self.done += 1
        if code != 0:
            self.failed.append(cell)
            lines = path_of(self.a, cell, ".log").read_text().strip().splitlines()
            return self.say(cell, f"FAILED ({code}): {lines[-1]}")
        kept = run / "result.json"
        result = json.loads(kept.read_text()) if kept.exists() else {}
        if result.get("after_task", 0) != result.get("tasks", -1):
            self.unfinished.append(cell)
            return self.say(cell, f"stopped after {seconds:.0f} s, goes on in the next call")
        if (run / "ranks.csv").exists():
            shutil.copy(run / "ranks.csv", path_of(self.a, cell, ".ranks.csv"))
        part = path_of(self.a, cell, ".json.part")
        part.write_text(json.dumps({"asked": asked_of(cell), "seconds": seconds, **result}) + "\n")
        part.replace(path)
        if not self.a.keep_runs:
            shutil.rmtree(run)
        accuracy = 100 * result["metrics"]["AverageAccuracy"]
        return self.say(cell, f"{accuracy:.2f} %, {seconds:.1f} s")

    def look(self):
        """Takes in what has ended; stops what is over the limit."""
        now, still = time.monotonic(), []
        for cell, process, began, end in self.running:
            if process.poll() is not None:
                self.finish(cell, process.returncode, now - began)
                continue
            if now > end:
                process.send_signal(signal.SIGINT)  # it saves and ends
                end = math.inf
            still.append((cell, process, began, end))
        self.running = still

    def stop(self):
        for _, process, *_ in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for _, process, *_ in self.running:
            process.wait()

    def all(self):
        try:
            while self.todo or self.running:
                while self.todo and len(self.running) < self.a.jobs:
                    self.start(self.todo.pop(0))
                time.sleep(0.02)
                self.look()
        finally:
            self.stop()


def missing_files(a, suite, cells):
    names = {name for cell in cells for name in pearl_cells.files_of(suite, cell)}
    return sorted(name for name in names if not (pathlib.Path(a.data) / name).exists())


def execute(a, suite, cells):
    """Runs what is not there yet; whether all of it is there then."""
    todo = [cell for cell in cells if not is_done(a, cell)]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} done before", file=sys.stderr)
    if not todo:
        return True
    if not os.access(a.program, os.X_OK):
        fail(f"there is no program {a.program}; build hone-pearl or say --program")
    absent = missing_files(a, suite, todo)
    if absent:
        fail(f"{a.data} has no {absent[0]} ({len(absent)} files are missing); set HONE_DATA")
    runner = Runner(a, suite, todo)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        runner.all()
    except KeyboardInterrupt:
        print("pearl.sh: stopped; the same call goes on", file=sys.stderr)
        return False
    for what, those in (("failed", runner.failed), ("unfinished", runner.unfinished)):
        if those:
            print(f"{len(those)} {what}: {' '.join(c.name for c in those)}", file=sys.stderr)
    return not runner.failed and not runner.unfinished


def main():
    a = arguments()
    suite, cells = choose(a)
    if a.list:
        show(a, suite, cells)
        return 0
    good = a.tables_only or execute(a, suite, cells)
    text = pearl_table.tables(a.out, [cell.name for cell in cells])
    print(text)
    if a.out.is_dir():
        (a.out / "pearl.md").write_text(text)
        pearl_table.pictures(a.out)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
