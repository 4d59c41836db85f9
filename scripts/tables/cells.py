"""Cells of tables: runs of programs, each kept as one JSON file. What pearl.sh, sparse.sh and
fedref.sh share.

A cell has a `name`, as place/.../kind-s<seed>, and `options`, which decide what comes out. Of a
cell, DIR/<name>.json is what was asked for and what came of it, DIR/<name>.log what the programs
said, and DIR/<name>/ their files, which are removed when it is done. A script brings a Work.
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
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Command(NamedTuple):
    what: str
    words: list
    to: pathlib.Path = None  # takes its standard output, once it has ended well; None: the log


class Work:
    """What a table's cells do. run: the folder of a cell; a: the arguments."""

    script = ""  # for messages

    def files(self, cell):
        """Names below HONE_DATA that it reads."""
        return ()

    def why_not(self, a, cell):
        """Why it cannot be run here; None: it can."""
        return None

    def alone(self, cell):
        """Whether nothing else may run beside it."""
        return False

    def group(self, cell):
        """Cells of one group go to one shard."""
        return cell.name

    def amount(self, options):
        """By what the time of alike cells grows."""
        return 1

    def next(self, a, cell, run):
        """The Command that is next, by what lies in the folder; None: all are done. One that ends
        well and is still the next one was stopped."""
        raise NotImplementedError

    def result(self, a, cell, run, seconds):
        """What the JSON keeps of a cell that is done. seconds: of its commands in this call."""
        raise NotImplementedError

    def failure(self, a, cell, line):
        """What the JSON keeps of a cell whose failure is a result, by the last line of its log; None:
        it is none."""
        return None

    def summary(self, result):
        return ""


def fail(script, text):
    print(f"{script}: {text}", file=sys.stderr)
    sys.exit(2)


# ---- arguments ----


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


def add_arguments(p, name, seeds, smoke_seeds):
    """The options that all scripts have; name: of the default folder below runs/."""
    text = lambda numbers: ",".join(map(str, numbers))
    p.set_defaults(name=name, all_seeds=seeds, smoke_seeds=smoke_seeds)
    which = p.add_mutually_exclusive_group()
    which.add_argument("--smoke", action="store_true", help="everything in small, on a CPU")
    which.add_argument("--full", action="store_true")
    p.add_argument("--only", type=re.compile, help="cells whose name this expression is found in")
    p.add_argument("--list", action="store_true", help="cells and the files they read; runs none")
    p.add_argument("--tables-only", action="store_true", help="runs none")
    p.add_argument("--out", help=f"default: runs/{name}, with --smoke runs/{name}-smoke")
    p.add_argument("--jobs", type=int, default=1, help="cells at a time")
    p.add_argument("--shard", type=shard, default=(1, 1), help="i/n: every n-th cell from the i-th")
    p.add_argument(
        "--seeds",
        type=whole_numbers,
        help=f"default: {text(seeds)}, with --smoke {text(smoke_seeds)}",
    )
    p.add_argument("--device", help="of the programs; default: auto, with --smoke cpu")
    p.add_argument("--limit", type=float, default=450, help="seconds of a cell in one call")
    p.add_argument("--minutes", type=float, help="of this call; what is under way then is stopped")
    p.add_argument("--keep-runs", action="store_true", help="with the networks of every cell")


def settle(work, a):
    if a.only and a.full:
        fail(work.script, "--only chooses among all cells; --full means nothing beside it")
    if a.jobs < 1:
        fail(work.script, f"--jobs {a.jobs}: at least 1")
    if a.minutes is not None and a.minutes <= 0:
        fail(work.script, f"--minutes {a.minutes:g}: more than 0")
    a.deadline = math.inf if a.minutes is None else time.monotonic() + 60 * a.minutes
    a.data = os.environ.get("HONE_DATA", str(ROOT.parent / "shared" / "data"))
    a.out = pathlib.Path(a.out or ROOT / "runs" / (f"{a.name}-smoke" if a.smoke else a.name))
    a.seeds = a.seeds or (a.smoke_seeds if a.smoke else a.all_seeds)
    a.device = a.device or ("cpu" if a.smoke else "auto")


def choose(work, a, cells):
    """Those that this call is to see to."""
    if a.only:
        cells = [c for c in cells if a.only.search(c.name)]
    i, n = a.shard
    groups = list(dict.fromkeys(work.group(c) for c in cells))
    mine = set(groups[i - 1 :: n])
    cells = [c for c in cells if work.group(c) in mine]
    if not cells:
        fail(work.script, "no cell is left: --list without --only and --shard shows their names")
    return cells


# ---- what is there ----


def path_of(a, cell, ending):
    return a.out / f"{cell.name}{ending}"


def asked_of(cell):
    """What identifies a cell's run, as its JSON keeps it."""
    text = lambda v: f"{v:g}" if isinstance(v, float) else str(v)
    return {"name": cell.name, "options": {k: text(v) for k, v in cell.options.items()}}


def is_done(work, a, cell):
    path = path_of(a, cell, ".json")
    if not path.exists():
        return False
    kept, now = json.loads(path.read_text())["asked"]["options"], asked_of(cell)["options"]
    other = [k for k in sorted(kept | now) if kept.get(k) != now.get(k)]
    if other:
        k = other[0]
        fail(
            work.script,
            f"{path} was made with {k}={kept.get(k)}, not {now.get(k)};"
            " another --out, or remove it",
        )
    return True


def show(work, a, cells):
    for cell in cells:
        state = "done" if is_done(work, a, cell) else "-"
        print(f"{cell.name}\t{state}\t{' '.join(work.files(cell))}")


def kind_of(name):
    """A cell's name without rate and seed."""
    return re.sub(r"(-lr[\de.-]+)?-s\d+$", "", name)


def likenesses(name):
    """A cell's kind, part, and stream: names of what is alike, the closest first."""
    kind = kind_of(name)
    return kind, kind.rpartition("/")[0], kind.partition("/")[0]


def pace(work, path):
    """Seconds of a cell that is done, for each unit of its amount: its part of what it took with
    others beside it."""
    kept = json.loads(path.read_text())
    return kept["seconds"] / kept.get("jobs", 1) / work.amount(kept["asked"]["options"])


def estimate(work, a, cells):
    """How long those that are not done would take, by what is there that is alike."""
    there, todo = {}, []
    for cell in cells:
        path = path_of(a, cell, ".json")
        if path.exists():
            for key in likenesses(cell.name):
                there.setdefault(key, []).append(pace(work, path))
        elif not work.why_not(a, cell):
            todo.append(cell)
    seconds, unknown = 0, 0
    for cell in todo:
        found = next((there[key] for key in likenesses(cell.name) if key in there), None)
        seconds += mean(found) * work.amount(cell.options) if found else 0
        unknown += not found
    known = f"about {seconds / 60:.1f} minutes" if unknown < len(todo) else "unknown"
    text = f"{len(cells)} cells, {len(todo)} to run: {known if todo else 'nothing'}"
    return f"{text}, and {unknown} like none that is there" if 0 < unknown < len(todo) else text


def words_of(options, data):
    """The options of a run as words; {data} stands for the folder of the data."""
    return [f"--{key}={v}".replace("{data}", data) for key, v in options.items()]


# ---- running ----


def spent(a, cell):
    """{what: seconds} of the cell's commands in all calls so far, stopped ones too; a killed call is
    not counted."""
    path = path_of(a, cell, ".spent")
    return json.loads(path.read_text()) if path.exists() else {}


class Running:
    """A cell under way: its commands one after the other."""

    def __init__(self, runner, cell):
        self.runner, self.cell = runner, cell
        self.run = path_of(runner.a, cell, "")
        self.began = time.monotonic()
        self.end, self.stopped = min(self.began + runner.a.limit, runner.a.deadline), False
        self.process = self.command = None
        self.seconds, self.since = {}, self.began
        self.run.parent.mkdir(parents=True, exist_ok=True)

    def start(self, command):
        part = command.to and pathlib.Path(f"{command.to}.part")
        if part:
            part.parent.mkdir(parents=True, exist_ok=True)
        with path_of(self.runner.a, self.cell, ".log").open("a") as log:
            print("$", *command.words, file=log, flush=True)
            to = part.open("w") if part else log
            self.process = subprocess.Popen(
                command.words, stdout=to, stderr=log, env=self.runner.env
            )
            if part:
                to.close()
        self.command, self.since = command, time.monotonic()

    def interrupt(self):
        if self.process.poll() is None and not self.stopped:
            self.process.send_signal(signal.SIGINT)  # it saves and ends
        self.stopped = True

    def count(self):
        """The command has ended: what it took is kept for a call that goes on."""
        path = path_of(self.runner.a, self.cell, ".spent")
        took, what = spent(self.runner.a, self.cell), self.command.what
        took[what] = took.get(what, 0) + time.monotonic() - self.since
        part = pathlib.Path(f"{path}.part")
        part.write_text(json.dumps(took) + "\n")
        part.replace(path)

    def go_on(self):
        """Starts what is next. Returns "running", "done", "failed" or "stopped"."""
        a, work, last = self.runner.a, self.runner.work, self.command
        if last:
            self.count()
            code = self.process.returncode
            if code == -signal.SIGINT and self.stopped:
                return "stopped"
            if code != 0:
                return "failed"
            self.seconds[last.what] = time.monotonic() - self.since
            if last.to:
                pathlib.Path(f"{last.to}.part").replace(last.to)
        command = work.next(a, self.cell, self.run)
        if command is None:
            return "done"
        if self.stopped or (last and command.what == last.what):
            return "stopped"
        self.start(command)
        return "running"


class Runner:
    def __init__(self, work, a, cells):
        self.work, self.a = work, a
        self.todo = sorted(cells, key=work.alone)  # those behind the others
        self.running, self.failed, self.unfinished, self.left = [], [], [], 0
        self.done, self.total, self.began = 0, len(cells), time.monotonic()
        self.env = dict(os.environ)
        threads = max(1, (os.cpu_count() or 1) // a.jobs)
        self.env.setdefault("OMP_NUM_THREADS", str(threads))

    def say(self, cell, what):
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        print(
            f"{self.done}/{self.total}  {cell.name}  {what}  ({left:.0f} s left)", file=sys.stderr
        )

    def keep(self, r, seconds, result):
        cell, path = r.cell, path_of(self.a, r.cell, ".json")
        jobs = 1 if self.work.alone(cell) else self.a.jobs
        kept = {"asked": asked_of(cell), "seconds": seconds, "jobs": jobs, **result}
        part = path_of(self.a, cell, ".json.part")
        part.write_text(json.dumps(kept) + "\n")
        part.replace(path)
        path_of(self.a, cell, ".spent").unlink(missing_ok=True)
        if not self.a.keep_runs:
            shutil.rmtree(r.run, ignore_errors=True)
        self.say(cell, f"{self.work.summary(result)}, {seconds:.1f} s")

    def finish(self, r, how):
        seconds = time.monotonic() - r.began
        self.done += 1
        if how == "done":
            return self.keep(r, seconds, self.work.result(self.a, r.cell, r.run, r.seconds))
        if how == "stopped":
            self.unfinished.append(r.cell)
            return self.say(r.cell, f"stopped after {seconds:.0f} s, goes on in the next call")
        lines = path_of(self.a, r.cell, ".log").read_text().strip().splitlines()
        result = self.work.failure(self.a, r.cell, lines[-1])
        if result is not None:
            return self.keep(r, seconds, result)
        self.failed.append(r.cell)
        return self.say(r.cell, f"FAILED ({r.process.returncode}): {lines[-1]}")

    def look(self):
        """Takes in what has ended; stops what is over the limit."""
        still = []
        for r in self.running:
            if r.process.poll() is None:
                if time.monotonic() > r.end:
                    r.interrupt()
                still.append(r)
                continue
            how = r.go_on()
            if how == "running":
                still.append(r)
            else:
                self.finish(r, how)
        self.running = still

    def has_room(self):
        alone = any(self.work.alone(r.cell) for r in self.running)
        if self.running and (alone or self.work.alone(self.todo[0])):
            return False
        return len(self.running) < self.a.jobs

    def stop(self):
        for r in self.running:
            r.interrupt()
        for r in self.running:
            r.process.wait()
            r.count()

    def all(self):
        try:
            while self.todo or self.running:
                if time.monotonic() > self.a.deadline:
                    self.left += len(self.todo)
                    self.todo = []
                while self.todo and self.has_room():
                    r = Running(self, self.todo.pop(0))
                    how = r.go_on()
                    if how == "running":
                        self.running.append(r)
                    else:
                        self.finish(r, how)
                time.sleep(0.02)
                self.look()
        finally:
            self.stop()


def missing_files(work, a, cells):
    names = {name for cell in cells for name in work.files(cell)}
    return sorted(name for name in names if not (pathlib.Path(a.data) / name).exists())


def execute(work, a, cells, programs, prepare=None):
    """Runs what is not there yet; whether all of it is there then, but for what cannot be here,
    or None where a signal has ended it. prepare: is called with the cells that will run."""
    todo = [cell for cell in cells if not is_done(work, a, cell)]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} done before", file=sys.stderr)
    reasons = {cell.name: work.why_not(a, cell) for cell in todo}
    for reason in sorted({r for r in reasons.values() if r}):
        those = [name for name, r in reasons.items() if r == reason]
        print(f"{len(those)} skipped: {reason}: {' '.join(those)}", file=sys.stderr)
    todo = [cell for cell in todo if not reasons[cell.name]]
    if not todo:
        return True
    for program in programs:
        if not os.access(program, os.X_OK):
            name = pathlib.Path(program).name
            fail(work.script, f"there is no program {program}; build {name} or say --program")
    absent = missing_files(work, a, todo)
    if absent:
        fail(
            work.script,
            f"{a.data} has no {absent[0]} ({len(absent)} files are missing); set HONE_DATA",
        )
    if prepare:
        prepare(todo)
    runner = Runner(work, a, todo)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        runner.all()
    except KeyboardInterrupt:
        print(f"{work.script}: stopped; the same call goes on", file=sys.stderr)
        return None
    for what, those in (("failed", runner.failed), ("unfinished", runner.unfinished)):
        if those:
            print(f"{len(those)} {what}: {' '.join(c.name for c in those)}", file=sys.stderr)
    if runner.left:
        print(f"{runner.left} not begun: --minutes are over", file=sys.stderr)
    return not (runner.failed or runner.unfinished or runner.left)


# ---- figures ----


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    m = mean(values)
    return math.sqrt(sum((v - m) ** 2 for v in values) / (len(values) - 1))


def row(*words):
    return "| " + " | ".join(words) + " |"


def head(*words, numbers_from=1):
    rule = ["---"] * numbers_from + ["---:"] * (len(words) - numbers_from)
    return [row(*words), "|" + "|".join(rule) + "|"]
