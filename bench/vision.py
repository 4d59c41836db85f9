"""Training steps of image classifiers, hone beside PyTorch on one GPU: a table and a file of JSON
lines for each shape.

    python3 bench/vision.py [--shapes resnet18-512,vit-64] [--build build-cuda] [--out DIR]

Every variant is a process of its own, one after the other: hone is BUILD/hone-bench-vision, the
peers are bench/peer_vision.py. Meanwhile nvidia-smi is asked for the SM clock and the power five
times a second (nothing is set); what falls into the timed window is averaged. Results are in DIR as
vision-<shape>.jsonl, written after each variant, and vision-<shape>.md. Ends with 1 when a variant
failed.

    python3 bench/vision.py --table bench/results/vision-*.jsonl [--into README.md]

prints one short table of these files, or writes it into a document between the lines
<!-- vision step tables --> and <!-- end of vision step tables -->: numbers in the README come from
nowhere else.

Without a GPU this tries it all: --shapes smoke --device cpu --build build --variants hone,eager.
"""

import argparse
import json
import pathlib
import sys
import time
from typing import NamedTuple

from step import ROOT, commit_of_tree, execute, write_between


class Shape(NamedTuple):
    title: str
    model: str
    batch: int
    images: int
    augment: str
    optimizer: str
    lr: float
    weight_decay: float


SHAPES = {
    "resnet18-512": Shape(
        "ResNet-18/CIFAR, batch 512", "resnet18-cifar", 512, 10000, "crop-flip", "sgd", 0.1, 5e-4
    ),
    "resnet18-32": Shape(
        "ResNet-18/CIFAR, batch 32", "resnet18-cifar", 32, 10000, "crop-flip", "sgd", 0.01, 5e-4
    ),
    "vit-64": Shape(
        "ViT-Tiny/224, batch 64", "vit_tiny_patch16_224", 64, 1024, "crop-flip", "adamw", 5e-4, 0.05
    ),
    "mnist-64": Shape("MNIST CNN, batch 64", "mnist-cnn", 64, 10000, "none", "sgd", 0.01, 5e-4),
    "separable-512": Shape(
        "separable net, batch 512", "separable-cifar", 512, 10000, "crop-flip", "sgd", 0.1, 5e-4
    ),
    "smoke": Shape("MNIST CNN, batch 16", "mnist-cnn", 16, 500, "crop-flip", "sgd", 0.01, 5e-4),
}
DEFAULT = ["resnet18-512", "resnet18-32", "vit-64", "mnist-64"]
COMMON = ["eager", "compile", "reduce-overhead"]  # what users of PyTorch run
CAPTURED = ["captured", "compile-captured"]
VARIANTS = ["hone", *COMMON, "captured"]
LABELS = {"captured": "captured by hand", "compile-captured": "compiled, captured by hand"}
BEGIN, END = "<!-- vision step tables -->\n", "<!-- end of vision step tables -->\n"


def command(variant, shape, a):
    s = SHAPES[shape]
    words = ["--model", s.model, "--batch", a.batch or s.batch, "--images", s.images]
    words += ["--augment", s.augment, "--optimizer", s.optimizer, "--lr", s.lr]
    words += ["--weight-decay", s.weight_decay, "--dtype", a.dtype, "--seconds", a.seconds]
    words = [str(w) for w in words] + ["--device", a.device]
    if variant == "hone":
        program = str(pathlib.Path(a.build).resolve() / "hone-bench-vision")
        return [program, *words, *a.hone.split()]
    peer = [a.python, str(ROOT / "bench" / "peer_vision.py"), *words]
    return [*peer, "--variant", variant, *a.peer.split()]


def run(variant, shape, a, commit):
    """The variant's result; with a key "error" when it failed."""
    result = execute(command(variant, shape, a), a.timeout)
    return {"variant": variant, "shape": shape, **result, "commit": commit}


# ---- tables ----


def good_of(results):
    return [r for r in results if "error" not in r]


def fastest(results, variants):
    """Of these variants, those that ran; None if none did."""
    found = [r for r in good_of(results) if r["variant"] in variants]
    return max(found, key=lambda r: r["images_per_s"], default=None)


def speed_of(r, other):
    return f"{r['images_per_s'] / other['images_per_s']:.2f}" if r and other else ""


def label(r):
    who = LABELS.get(r["variant"], r["variant"])
    return who + ", weights in bf16" * r["who"].endswith("weights in bf16")


def tensors_gib(r):
    """What tensors and workspaces take: hone's plan, PyTorch's max_memory_allocated."""
    return r["plan_gib"] if r["variant"] == "hone" else r["peak_gib"]


def device_gib(r):
    """What went from the device's free memory, code of libraries included."""
    return r["peak_gib"] if r["variant"] == "hone" else r["used_gib"]


def made_by(good):
    versions = "; ".join(sorted({r["versions"] for r in good}))
    commits = ", ".join(sorted({r["commit"] for r in good}))
    day = time.strftime("%Y-%m-%d", time.gmtime(good[0]["window"][0]))
    gpu = good[0]["device"].removeprefix("cuda:0, ").partition(",")[0]
    return f"{gpu}; {versions}; commit {commits}; {day}."


def table(results):
    """Of one shape: Markdown."""
    best, captured = fastest(results, COMMON), fastest(results, CAPTURED)
    rows = [
        "| | images/s | of the best of eager, compile, reduce-overhead | of the captured step"
        " | ms a step (p20, p50, p80) | GiB of tensors | GiB from the device | SM MHz | W | loss |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---|",
    ]
    for r in results:
        if "error" in r:
            rows.append(f"| {r['variant']} | failed: {r['error']} | | | | | | | | |")
            continue
        ms = ", ".join(f"{v:.3f}" for v in r["step_ms"])
        rows.append(
            f"| {label(r)} | {r['images_per_s']:,.0f} | {speed_of(r, best)}"
            f" | {speed_of(r, captured)} | {ms} | {tensors_gib(r):.2f} | {device_gib(r):.2f}"
            f" | {r.get('sm_mhz', '')} | {r.get('power_w', '')}"
            f" | {r['loss_first']:.3f} to {r['loss_last']:.3f} |"
        )
    good = good_of(results)
    if good:
        r = good[0]
        rows += [
            "",
            f"{r['model']}, {r['batch']} images a step out of {r['images']:,} in the device's "
            f"memory, {r['augment']}, {r['optimizer']}, {r['dtype']}; random weights; at least "
            f"{min(g['seconds'] for g in good):.0f} s of continuous steps each.",
            "",
            made_by(good),
        ]
        rows += [f"\n{label(g)}: {g['notes']}" for g in good if g.get("notes")]
        sources = {g["source"] for g in good if "source" in g}
        rows += [f"\nPyTorch's model: {source}" for source in sorted(sources)]
    return "\n".join(rows) + "\n"


def least(peers, of):
    return f"{min(of(r) for r in peers):.2f}" if peers else ""


def short_row(results):
    hone = fastest(results, ["hone"])
    best, captured = fastest(results, COMMON), fastest(results, CAPTURED)
    peers = [r for r in good_of(results) if r["variant"] != "hone"]
    words = [SHAPES[hone["shape"]].title, f"{hone['images_per_s']:,.0f}"]
    for peer in (best, captured):
        words += [f"{peer['images_per_s']:,.0f} ({label(peer)})" if peer else ""]
        words += [speed_of(hone, peer)]
    words += [f"{of(hone):.2f} / {least(peers, of)}" for of in (tensors_gib, device_gib)]
    return "| " + " | ".join(words) + " |"


def short_table(files):
    """A row for each shape; memory beside that of the peer that takes least."""
    rows = [
        "| | hone, images/s | best of eager, compile, reduce-overhead | hone / that"
        " | captured by hand | hone / that | GiB of tensors, hone / least of the peers"
        " | GiB from the device, hone / least of the peers |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    good = []
    for file in files:
        results = [json.loads(line) for line in pathlib.Path(file).read_text().splitlines()]
        if not fastest(results, ["hone"]):
            sys.exit(f"{file}: no result of hone")
        rows.append(short_row(results))
        good += good_of(results)
    return "\n".join(rows) + f"\n\n{made_by(good)}\n"


# ---- running ----


def run_shape(shape, variants, a, commit):
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for v in variants:
        print(f"== {shape}: {v}", file=sys.stderr, flush=True)
        results.append(run(v, shape, a, commit))
        print(json.dumps(results[-1]), flush=True)
        lines = "".join(json.dumps(r) + "\n" for r in results)
        (out / f"vision-{shape}.jsonl").write_text(lines)
        (out / f"vision-{shape}.md").write_text(table(results))
    print(table(results), flush=True)
    return any("error" in r for r in results)


def names(p, option, text, known):
    chosen = text.split(",")
    for name in chosen:
        if name not in known:
            p.error(f"--{option}: no '{name}'; there are {', '.join(known)}")
    return chosen


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--table", nargs="+", metavar="FILE", help="of results; runs nothing")
    p.add_argument("--into", metavar="FILE", help="document that takes the table")
    p.add_argument("--shapes", default=",".join(DEFAULT), help=f"of {', '.join(SHAPES)}")
    others = f"{', '.join(VARIANTS)} (the default) and compile-captured"
    p.add_argument("--variants", default=",".join(VARIANTS), help=f"of {others}")
    p.add_argument("--build", default=str(ROOT / "build-cuda"), help="folder of hone-bench-vision")
    p.add_argument("--hone", default="", help="more options for hone-bench-vision, as one word")
    p.add_argument("--peer", default="", help="for bench/peer_vision.py, as one word")
    p.add_argument("--out", default=str(ROOT / "bench" / "results"))
    p.add_argument("--seconds", type=float, default=6.0, help="of continuous steps, at least")
    p.add_argument("--batch", type=int, default=0, help="other than the shape's")
    p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    p.add_argument("--device", default="cuda")
    p.add_argument("--commit", default="")
    p.add_argument("--timeout", type=float, default=150.0, help="seconds a variant may take in all")
    p.add_argument("--python", default=sys.executable, help="for the peers")
    a = p.parse_args()
    if a.table:
        text = short_table(a.table)
        write_between(a.into, BEGIN, END, text) if a.into else print(text, end="")
        return 0
    if a.into:
        p.error("--into goes with --table")
    shapes = names(p, "shapes", a.shapes, SHAPES)
    variants = names(p, "variants", a.variants, [*VARIANTS, "compile-captured"])
    commit = a.commit or commit_of_tree()
    failed = [run_shape(shape, variants, a, commit) for shape in shapes]
    return any(failed)


if __name__ == "__main__":
    sys.exit(main())
