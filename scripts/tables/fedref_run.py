"""Runs the cells of fedref.sh, some at a time, and prints their tables.

    scripts/tables/fedref.sh [--smoke | --full | --only REGEX] [--seeds 0,1,2,3,4] [--rounds N]
                             [--out DIR] [--jobs N] [--minutes M] [--shard i/n] [--device D]
                             [--program FILE]
                             [--fets DIR [--fets-partition CSV] [--fets-modality M] [--fets-most N]]

A cell is one run of hone-fedref: DIR/<cell>.json is its result.json with what was asked for and the
accuracies by round, DIR/<cell>.log what it said. First come those of part `choice`, which try the
learning rates with a seed of their own and are measured on images that no table shows; then those
of part `run`, each method at its best rate. Where there is a GPU the smallest networks train as
blocks, others some clients at a time. A cell whose JSON is there is not run again; one that was run
with other options is an error. Its files (DIR/<cell>/) are removed when it is done, but for
--keep-runs. A cell that takes longer than --limit seconds is stopped with its state saved and goes
on in the next call; one that fails is named, the others go on and the call ends with 1. Tables
(Markdown) go to standard output and DIR/fedref.md, pictures to DIR where gnuplot is
(fedref_table.py; --tables-only makes them of what is there).

Without --full: all methods on MNIST and CIFAR-10 (Dirichlet 0.1, 0.5, 100), Fashion-MNIST and
PneumoniaMNIST in sites, penalties on two streams, payloads, segmentation of the MNI volume in
sites, robustness, times. --fets adds a user's copy of FeTS2022:
DIR/<subject>/<subject>_<modality>.nii.gz and _seg.nii.gz, sites by DIR/partitioning_1.csv
(Partition_ID, Subject_ID), at most --fets-most subjects of each. The modalities t1, t1ce, t2 and
flair are the four channels of the network, but for --fets-modality, which names one (the authors
have flair alone). --full adds penalties on all streams and more of Fashion-MNIST.
Runs go seed by seed through all streams: what --minutes cuts off are the last seeds, and the tables
say how many there were. --list also says, on standard error, about how long the rest would take, by
the cells of the same kind that are there.

On a GPU that several programs share, each wait of one costs a time slice of the others: without
more, one cell at a time is as fast as eight (the default is 1). NVIDIA's MPS lets their work run
side by side; start and end it yourself, and --jobs is half of the cores by default, at most 8:

    nvidia-cuda-mps-control -d
    scripts/tables/fedref.sh --program build-cuda/hone-fedref
    echo quit | nvidia-cuda-mps-control

--only takes of all cells those whose name matches; --shard leaves the cells of a method on a stream
together. Data are found through HONE_DATA (default ../shared/data).
"""

import argparse
import csv
import glob
import json
import os
import pathlib
import shutil
import sys

import cells
import fedref_cells
import fedref_table

TIMES = ("client_s", "server_ms", "eval_s")


def fets_of(a):
    """The user's copy, looked at."""
    folder = pathlib.Path(a.fets)
    partition = pathlib.Path(a.fets_partition or folder / "partitioning_1.csv")
    copy = fedref_cells.Fets(folder, partition, a.fets_modality, a.fets_most)
    try:
        first = next(iter(copy.sites().items()))
        copy.line(first[0], first[1][0])
    except FileNotFoundError as error:
        cells.fail("fedref.sh", f"--fets {a.fets}: there is no {error.filename or error}")
    except (KeyError, StopIteration):
        cells.fail("fedref.sh", f"{partition}: no columns Partition_ID and Subject_ID, or no line")
    return copy


def arguments(work):
    p = argparse.ArgumentParser(
        prog="fedref.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cells.add_arguments(p, "fedref", [0, 1, 2, 3, 4], [0, 1])
    p.set_defaults(jobs=None)
    p.add_argument("--rounds", type=int, help="of choice and run; default: each stream its own")
    p.add_argument("--program", default=str(cells.ROOT / "build" / "hone-fedref"))
    p.add_argument("--fets", metavar="DIR", help="a copy of FeTS2022's training data")
    p.add_argument("--fets-partition", metavar="CSV", help="default: DIR/partitioning_1.csv")
    words = ("all", *fedref_cells.MODALITIES)
    p.add_argument(
        "--fets-modality",
        choices=words,
        default="all",
        help="all: four channels; flair is the authors'",
    )
    p.add_argument("--fets-most", type=int, default=30, help="subjects of a site, at most")
    a = p.parse_args()
    if a.fets and a.smoke:
        cells.fail(work.script, "--fets: not with --smoke")
    if a.jobs is None:
        a.jobs = max(1, min(8, (os.cpu_count() or 1) // 2)) if has_mps() else 1
    cells.settle(work, a)
    if a.jobs > 2 and has_gpu(a) and not has_mps():
        print("cells share the GPU by time slices: MPS or fewer --jobs (--help)", file=sys.stderr)
    a.copy = fets_of(a) if a.fets else None
    other = a.copy and a.copy.other(a.out)
    if other:
        cells.fail(work.script, f"{other}; another --out")
    return a


def has_gpu(a):
    return a.device != "cpu" and bool(glob.glob("/dev/nvidia[0-9]*"))


def has_mps():
    """Whether NVIDIA's MPS has been started."""
    folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    return os.path.exists(os.path.join(folder, "control"))


def simulation(a, cell):
    return cell.simulate if cell.part == "ways" or has_gpu(a) else "one"


class FedrefWork(cells.Work):
    script = "fedref.sh"

    def files(self, cell):
        return cell.files

    def group(self, cell):
        return cell.group

    def why_not(self, a, cell):
        if cell.part == "ways" and not has_gpu(a) and (cell.lanes > 1 or cell.simulate == "block"):
            return "lanes and blocks are of a GPU"
        return None

    def alone(self, cell):
        return cell.part in ("time", "ways")

    def amount(self, options):
        return int(options["rounds"])

    def next(self, a, cell, run):
        kept = run / "result.json"
        result = json.loads(kept.read_text()) if kept.exists() else {}
        if result.get("rounds_done", 0) == cell.options["rounds"]:
            return None
        # How clients are simulated moves results by rounding only; it is no option of a cell.
        simulate = simulation(a, cell)
        options = {**cell.options, "simulate": simulate, "device": a.device, "out": run}
        options["save-every"] = 25
        if simulate == "one" and has_gpu(a) and cell.lanes > 1:
            options["lanes"] = cell.lanes
        if (run / "index.json").exists():
            options["resume"] = "auto"
        else:
            shutil.rmtree(run, ignore_errors=True)
        words = [word.replace("{out}", str(a.out)) for word in cells.words_of(options, a.data)]
        return cells.Command("train", [a.program, "train", *words])

    def result(self, a, cell, run, seconds):
        result = json.loads((run / "result.json").read_text())
        with (run / "rounds.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        result["simulate"] = simulation(a, cell)
        result["score"] = score = "dice" if "last_dice" in result else "accuracy"
        for name in (score,) if cell.part == "choice" else (score, *TIMES):
            result[f"by_round_{name}"] = [float(row[name]) for row in rows if row[name]]
        return result

    def failure(self, a, cell, line):
        """Numbers that overflow: a rate that was tried and is the worst, a method that does not work."""
        if "ERR_NUMERIC" not in line:
            return None
        return {"score": "accuracy", "last_accuracy": 0.0, "by_round_accuracy": [0.0], "diverged": line}

    def summary(self, result):
        if "diverged" in result:
            return result["diverged"]
        return f"{100 * result['last_' + result['score']]:.2f} %"


def with_rates(a, chosen):
    """Cells of part run at the best of their rates, and those of which not all were tried."""
    tried = fedref_table.choices(a.out)
    ready, waiting = [], []
    for cell in (c for c in chosen if c.part == "run"):
        rates = tried.get((cell.stream, cell.rate_of), {})
        if set(rates) >= set(fedref_cells.rates_of(a.suite, cell.rate_of)):
            ready.append(cell.at(fedref_table.best_rate(rates)))
        else:
            waiting.append(cell)
    return sorted(ready, key=lambda c: c.seed), waiting


def prepare(a, todo):
    for made in sorted({cell.made for cell in todo if cell.made}):
        try:
            fedref_cells.prepare(made, a.data, a.out, a.copy)
        except FileNotFoundError as error:
            cells.fail("fedref.sh", f"there is no {error.filename or error}")
        except ValueError as error:
            cells.fail("fedref.sh", error)


def show(work, a, chosen):
    ready, waiting = with_rates(a, chosen)
    cells.show(work, a, [c for c in chosen if c.part != "run"] + ready)
    for cell in waiting:
        print(f"{cell.name}\twaits for its rate\t{' '.join(cell.files)}")
    print(cells.estimate(work, a, chosen), file=sys.stderr)


def run(work, a, chosen):
    """Whether all is there then."""
    print(cells.estimate(work, a, chosen), file=sys.stderr)
    execute = lambda those: cells.execute(
        work, a, those, [a.program], lambda todo: prepare(a, todo)
    )
    good = execute([c for c in chosen if c.part != "run"])
    if good is None:
        return False
    ready, waiting = with_rates(a, chosen)
    if ready:
        good = execute(ready) and good
    if waiting:
        print(f"{len(waiting)} cells wait for the choice of their rate", file=sys.stderr)
    return good and not waiting


def main():
    work = FedrefWork()
    a = arguments(work)
    a.suite = fedref_cells.smoke() if a.smoke else fedref_cells.whole(
        a.full or a.only, a.fets, a.fets_modality
    )
    settings = {"rounds": a.rounds} if a.rounds else {}
    chosen = cells.choose(work, a, fedref_cells.make(a.suite, a.seeds, settings))
    if a.list:
        show(work, a, chosen)
        return 0
    good = a.tables_only or run(work, a, chosen)
    wanted = [cell.name for cell in chosen if not work.why_not(a, cell)]
    text = fedref_table.tables(a.out, wanted)
    print(text)
    if a.out.is_dir():
        (a.out / "fedref.md").write_text(text)
        fedref_table.pictures(a.out)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
