"""ResNet-18 on a part of CIFAR-10 from scratch: hone-full beside the same recipe in PyTorch.

    python3 bench/accuracy.py [--seeds 0,1,2] [--epochs 30] [--jobs 6] [--build build-cuda]
                              [--device cuda] [--dtype bf16] [--out bench/results]

10,000 training and 2,000 held-out images of HONE_DATA (default ../shared/data). Both sides get the
same options: batches of 128, crops out of 4 pixels around and flips, SGD at 0.1 with Nesterov's
momentum 0.9, weight decay 5e-4 on filters and matrices, 3 % of the steps warm-up and a cosine
behind it, label smoothing 0.1. bench/peer_accuracy.py is the other side. --jobs runs at a time (0:
all at once; one does not fill a GPU). Prints Markdown: the accuracy after the last step (not the
best), mean and standard deviation over the seeds, and their difference; with --out DIR also
DIR/accuracy-resnet18.jsonl and .md. Ends with 1 when a run failed, or hone's mean is more than a
point below.

    python3 bench/accuracy.py --table bench/results/accuracy-resnet18.jsonl   # the table once more

On a CPU this tries it all, on 1,500 and 500 images: --small --steps 2 --batch-size 16 --seeds 0
--jobs 1 --device cpu --dtype f32 --build build.
"""

import argparse
import csv
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from step import ROOT, commit_of_tree

PART = {  # training files, held-out file, images of both
    False: (
        ("cifar10/train_10000_1of2.bin.gz", "cifar10/train_10000_2of2.bin.gz"),
        "cifar10/test_2000.bin.gz",
        (10000, 2000),
    ),
    True: (("cifar10/train_1500.bin",), "cifar10/test_500.bin", (1500, 500)),
}
POINTS = 1.0  # that hone's mean may be below


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--table", metavar="FILE", help="of results; runs nothing")
    p.add_argument("--seeds", default="0,1,2")
    p.add_argument("--epochs", type=float, default=30)
    p.add_argument("--steps", type=int, default=0, help="in place of --epochs")
    p.add_argument("--small", action="store_true", help="1,500 + 500 images")
    p.add_argument("--batch-size", type=int, default=128)
    p.add_argument("--jobs", type=int, default=0)
    p.add_argument("--build", default=str(ROOT / "build-cuda"), help="folder of hone-full")
    p.add_argument("--device", default="cuda")
    p.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    p.add_argument("--out", help="folder of the results")
    p.add_argument("--commit", default="")
    p.add_argument("--timeout", type=float, default=480, help="seconds a run may take")
    p.add_argument("--python", default=sys.executable, help="for the peer")
    a = p.parse_args()
    a.data = pathlib.Path(os.environ.get("HONE_DATA", ROOT.parent / "shared" / "data"))
    a.seeds = [int(s) for s in a.seeds.split(",")]
    a.train, a.held_out, a.images = PART[a.small]
    a.steps = a.steps or math.ceil(a.images[0] * a.epochs / a.batch_size)
    return a


def recipe(a, seed):
    """What both sides are told, in the same words."""
    options = {
        "model": "resnet18-cifar",
        "data": ",".join(str(a.data / name) for name in a.train),
        "eval-data": a.data / a.held_out,
        "batch-size": a.batch_size,
        "steps": a.steps,
        "warmup-steps": a.steps * 3 // 100,
        "lr": 0.1,
        "momentum": 0.9,
        "weight-decay": 5e-4,
        "label-smoothing": 0.1,
        "dtype": a.dtype,
        "seed": seed,
        "device": a.device,
    }
    return [word for key, v in options.items() for word in (f"--{key}", str(v))]


def execute(words, a):
    done = subprocess.run(words, capture_output=True, text=True, timeout=a.timeout, cwd=ROOT)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing on standard error"]
        raise RuntimeError(f"ended with {done.returncode}: {last[0]}")
    return done


def run_hone(a, seed):
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        words = [str(pathlib.Path(a.build).resolve() / "hone-full"), "train", *recipe(a, seed)]
        words += ["--optimizer", "sgd", "--nesterov", "--schedule", "cosine", "--min-lr", "0"]
        words += ["--augment", "crop-flip", "--pad", "4", "--max-grad-norm", "0"]
        words += ["--result", "last", "--keep", "1", "--out", str(out)]
        done = execute(words, a)
        with open(out / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    last = {key: [r for r in rows if r[key]][-1] for key in ("loss", "eval_loss", "eval_accuracy")}
    steps = {int(r["step"]) for r in last.values()}
    if steps != {a.steps}:
        raise RuntimeError(f"the last loss and accuracy are of the steps {steps}, not {a.steps}")
    device = [line for line in done.stderr.splitlines() if line.startswith("device: ")]
    return {
        "accuracy": float(last["eval_accuracy"]["eval_accuracy"]),
        "eval_loss": float(last["eval_loss"]["eval_loss"]),
        "loss_last": float(last["loss"]["loss"]),
        "seconds": time.monotonic() - began,
        "device": device[0].removeprefix("device: ") if device else a.device,
    }


def run_torch(a, seed):
    peer = [a.python, str(ROOT / "bench" / "peer_accuracy.py")]
    return json.loads(execute([*peer, *recipe(a, seed)], a).stdout.splitlines()[-1])


SIDES = {"hone": run_hone, "torch": run_torch}


def run(job):
    a, who, seed = job
    head = {"who": who, "seed": seed, "steps": a.steps, "batch": a.batch_size, "dtype": a.dtype}
    head["images"] = a.images
    try:
        result = SIDES[who](a, seed)
    except (RuntimeError, subprocess.TimeoutExpired, OSError) as e:
        result = {"error": str(e)}
    said = result.get("error") or f"{100 * result['accuracy']:.2f} %, {result['seconds']:.0f} s"
    print(f"{who}, seed {seed}: {said}", file=sys.stderr, flush=True)
    return {**head, **result, "commit": a.commit}


def accuracies(results, who):
    return [100 * r["accuracy"] for r in results if r["who"] == who and "error" not in r]


def spread(values):
    return statistics.stdev(values) if len(values) > 1 else math.nan


def number(v, form):
    return "-" if math.isnan(v) else format(v, form)


def difference(results):
    """Points that hone's mean is above PyTorch's, and the standard error of that."""
    hone, peer = (accuracies(results, who) for who in SIDES)
    if not hone or not peer:
        return math.nan, math.nan
    error = math.hypot(*(spread(v) / math.sqrt(len(v)) for v in (hone, peer)))
    return statistics.mean(hone) - statistics.mean(peer), error


def table(results):
    lines = [
        "| | accuracy, %, of each seed | mean | s.d. | held-out loss | s a run |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for who in SIDES:
        good = [r for r in results if r["who"] == who and "error" not in r]
        if not good:
            lines.append(f"| {who} | - | - | - | - | - |")
            continue
        v = accuracies(results, who)
        sd = number(spread(v), ".2f")
        each = ", ".join(f"{x:.2f}" for x in v)
        loss, seconds = (statistics.mean(r[k] for r in good) for k in ("eval_loss", "seconds"))
        lines.append(
            f"| {who} | {each} | {statistics.mean(v):.2f} | {sd} | {loss:.4f}" f" | {seconds:.0f} |"
        )
    points, error = (number(v, form) for v, form in zip(difference(results), ("+.2f", ".2f")))
    r = results[0]
    of = ", ".join(sorted({r[k] for r in results for k in ("device", "versions") if k in r}))
    lines += [
        "",
        f"hone - PyTorch: {points} points (standard error {error}). ResNet-18 on "
        f"{r['images'][0]:,} images of CIFAR-10, {r['steps']} steps of {r['batch']}, {r['dtype']}; "
        f"the accuracy on {r['images'][1]:,} held-out images after the last step. Times are of "
        f"runs beside each other. {of}; commit {r['commit']}.",
    ]
    failed = [f"{r['who']}, seed {r['seed']}: {r['error']}" for r in results if "error" in r]
    return "\n".join(lines + [f"\nFailed: {f}" for f in failed]) + "\n"


def main():
    a = arguments()
    if a.table:
        results = [json.loads(line) for line in pathlib.Path(a.table).read_text().splitlines()]
        print(table(results), end="")
        return 0
    a.commit = a.commit or commit_of_tree()
    jobs = [(a, who, seed) for seed in a.seeds for who in SIDES]
    with ThreadPoolExecutor(a.jobs or len(jobs)) as pool:
        results = list(pool.map(run, jobs))
    text = table(results)
    print(text, end="")
    if a.out:
        out = pathlib.Path(a.out)
        out.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(r) + "\n" for r in results)
        (out / "accuracy-resnet18.jsonl").write_text(lines)
        (out / "accuracy-resnet18.md").write_text(text)
    points, _ = difference(results)
    within = points >= -POINTS and not any("error" in r for r in results)  # a NaN is not within
    print("within a point of PyTorch" if within else "NOT within a point of PyTorch")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
