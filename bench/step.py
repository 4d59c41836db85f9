"""Training steps of hone beside PyTorch + PEFT on one GPU: one table, one JSON line a variant.

    python3 bench/step.py --shape 1b [--build build-cuda] [--variants hone,bf16-cudnn] [--out DIR]

Every variant is a process of its own, one after the other: hone is BUILD/hone-bench-step, the peers
are bench/peer_step.py. Meanwhile nvidia-smi is asked for the SM clock and the power five times a
second (nothing is set); what falls into the timed window is averaged. Results are in DIR as
step-<shape>.jsonl, written after each variant, and step-<shape>.md. Ends with 1 when a variant
failed.

    python3 bench/step.py --table bench/results/step-1b.jsonl bench/results/step-8b.jsonl
                          [--into README.md]

prints a shorter table for each of these files, or writes them into a document between the lines
<!-- step tables --> and <!-- end of step tables -->: numbers in the README come from nowhere else.

Without a GPU this tries it all: --shape tiny --device cpu --no-compile --build build
--variants hone,bf16-flash,fp32-flash.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHAPES = {
    "1b": ("llama-3.2-1b.json", 8, 2048),
    "8b": ("llama-3.1-8b.json", 4, 2048),
    "1b-512": ("llama-3.2-1b.json", 1, 512),
    "1b-32k": ("llama-3.2-1b.json", 1, 32768),
    "tiny": ("tiny.json", 2, 64),
}
VARIANTS = [
    "hone",
    "hone-fast",
    "bf16-stock",
    "bf16-flash",
    "bf16-cudnn",
    "fp32-flash",
    "fp32-cudnn",
]
MODELS = {"llama-3.2-1b": "Llama-3.2-1B", "llama-3.1-8b": "Llama-3.1-8B"}
BEGIN, END = "<!-- step tables -->\n", "<!-- end of step tables -->\n"
OTHERS = ["bf16-math", "bf16-cudnn-graphs", "bf16-flash-graphs"]


class Clocks:
    """SM clock (MHz) and power (W) from nvidia-smi, with the time at which each line came."""

    def __init__(self):
        self.samples, self.process = [], None
        if shutil.which("nvidia-smi"):
            query = ["--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"]
            self.process = subprocess.Popen(
                ["nvidia-smi", "-i", "0", *query, "-lms", "200"], stdout=subprocess.PIPE, text=True
            )
            threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            try:
                self.samples.append((time.time(), *(float(v) for v in line.split(","))))
            except ValueError:
                pass  # "[N/A]"

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def mean(self, window):
        inside = [s for s in self.samples if window[0] <= s[0] <= window[1]]
        if not inside:
            return {}
        n = len(inside)
        return {
            "sm_mhz": round(sum(s[1] for s in inside) / n),
            "sm_mhz_min": round(min(s[1] for s in inside)),
            "power_w": round(sum(s[2] for s in inside) / n),
            "samples": n,
        }


def command(variant, a):
    config, batch, length = SHAPES[a.shape]
    common = ["--model", str(ROOT / "bench" / "shapes" / config), "--batch", str(a.batch or batch)]
    common += ["--length", str(length), "--rank", str(a.rank), "--seconds", str(a.seconds)]
    common += ["--device", a.device]
    if variant.startswith("hone"):
        fast = ["--attention", "fast"] * (variant == "hone-fast")
        program = str(pathlib.Path(a.build).resolve() / "hone-bench-step")
        return [program, *common, *fast, *a.hone.split()]
    adapters, sdpa, *graphs = variant.split("-")
    peer = [a.python, str(ROOT / "bench" / "peer_step.py"), *common]
    peer += ["--mode", "reduce-overhead"] * len(graphs)
    return peer + ["--adapters", adapters, "--sdpa", sdpa] + ["--no-compile"] * a.no_compile


def execute(argv, timeout):
    """The JSON that a program prints, with clocks and power of its window; "error" alone when it
    failed."""
    clocks, began = Clocks(), time.time()
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=timeout, cwd=ROOT)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        failed = f"exit code {done.returncode}" if done.returncode or not lines else None
    except subprocess.TimeoutExpired:
        lines, failed = [], f"took more than {timeout:g} s"
    except OSError as e:
        lines, failed = [], str(e)
    clocks.stop()
    if failed:
        return {"error": failed}
    result = json.loads(lines[-1])
    result |= clocks.mean(result["window"])
    return result | {"whole_s": round(time.time() - began, 1)}


def run(variant, a, commit):
    """The variant's result; with a key "error" when it failed."""
    result = {"variant": variant, "shape": a.shape, **execute(command(variant, a), a.timeout)}
    if "error" in result:
        return result
    result["model"] = str(pathlib.Path(result["model"]).relative_to(ROOT))
    return result | {"commit": commit}


def name(r):
    return r["who"] + (", --attention fast" if r["variant"] == "hone-fast" else "")


def table(results):
    """Markdown; the ratio is to the fastest peer."""
    good = [r for r in results if "error" not in r]
    peers = [r["tokens_per_s"] for r in good if not r["variant"].startswith("hone")]
    best = max(peers, default=None)
    rows = [
        "| | tokens/s | of best peer | ms a step (p20, p50, p80) | peak GiB | SM MHz | W | loss |",
        "|---|---:|---:|---|---:|---:|---:|---|",
    ]
    for r in results:
        if "error" in r:
            rows.append(f"| {r['variant']} | failed: {r['error']} | | | | | | |")
            continue
        ratio = f"{r['tokens_per_s'] / best:.3f}" if best else ""
        ms = ", ".join(f"{v:.1f}" for v in r["step_ms"])
        reserved = f" ({r['reserved_gib']:.1f})" if "reserved_gib" in r else ""
        rows.append(
            f"| {name(r)} | {r['tokens_per_s']:,.0f} | {ratio} | {ms} | {r['peak_gib']:.1f}{reserved}"
            f" | {r.get('sm_mhz', '')} | {r.get('power_w', '')}"
            f" | {r['loss_first']:.3f} to {r['loss_last']:.3f} |"
        )
    if good:
        r = good[0]
        rows += [
            "",
            f"{pathlib.Path(r['model']).stem}, {r['batch']} x {r['length']} tokens a step, LoRA r="
            f"{r['rank']} on all seven linears, bf16, random weights and tokens; at least "
            f"{min(g['seconds'] for g in good):.0f} s of continuous steps each. In brackets: "
            "reserved by PyTorch.",
            "",
            f"{r['device']}; commit {r['commit']}; "
            + "; ".join(sorted({g["versions"] for g in good})),
        ]
        rows += [f"\n{name(g)}: {g['notes']}" for g in good if g.get("notes")]
    return "\n".join(rows) + "\n"


# ---- for readers: fewer columns ----


def label(r):
    """The variant in words."""
    if r["variant"].startswith("hone"):
        return name(r)
    adapters, sdpa, *graphs = r["variant"].split("-")
    words = {"cudnn": "cuDNN", "stock": "stock attention"}
    return f"PEFT {adapters}, {words.get(sdpa, sdpa)}" + ", graphs" * len(graphs)


def title(r):
    stem = pathlib.Path(r["model"]).stem
    return f"{MODELS.get(stem, stem)}, {r['batch']} x {r['length']} tokens"


def short_table(results):
    """Ratios of speed and memory are to the fastest peer."""
    good = [r for r in results if "error" not in r]
    peers = [r for r in good if not r["variant"].startswith("hone")]
    best = max(peers, key=lambda r: r["tokens_per_s"], default=None)

    def ratio(r, key):
        return f"{r[key] / best[key]:.2f}" if best and best[key] else ""

    rows = [
        f"| {title(good[0])} | tokens/s | of the fastest peer | ms a step, p50 | peak GiB"
        " | of that peer | SM MHz | W |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in good:
        rows.append(
            f"| {label(r)} | {r['tokens_per_s']:,.0f} | {ratio(r, 'tokens_per_s')}"
            f" | {r['step_ms'][1]:.1f} | {r['peak_gib']:.1f} | {ratio(r, 'peak_gib')}"
            f" | {r.get('sm_mhz', '')} | {r.get('power_w', '')} |"
        )
    made_by = "; ".join(sorted({r["versions"] for r in good}))
    commits = ", ".join(sorted({r["commit"] for r in good}))
    day = time.strftime("%Y-%m-%d", time.gmtime(good[0]["window"][0]))
    gpu = good[0]["device"].removeprefix("cuda:0, ").partition(",")[0]
    return "\n".join(rows) + f"\n\n{gpu}; {made_by}; commit {commits}; {day}.\n"


def write_between(file, begin, end, text):
    """Into a document, between two lines of it."""
    into = pathlib.Path(file)
    before, found, rest = into.read_text().partition(begin)
    _, also, after = rest.partition(end)
    if not found or not also:
        sys.exit(f"{into}: the lines {begin.strip()} and {end.strip()} are not there")
    into.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def tables(a):
    texts = []
    for file in a.table:
        results = [json.loads(line) for line in pathlib.Path(file).read_text().splitlines()]
        if all("error" in r for r in results):
            sys.exit(f"{file}: every variant failed")
        texts.append(short_table(results))
    text = "\n".join(texts)
    if not a.into:
        print(text, end="")
        return
    write_between(a.into, BEGIN, END, text)


def commit_of_tree():
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--shape", choices=SHAPES)
    what.add_argument("--table", nargs="+", metavar="FILE", help="of results; runs nothing")
    p.add_argument("--into", metavar="FILE", help="document that takes the tables")
    variants = f"of {','.join(VARIANTS)} (the default) and {','.join(OTHERS)}"
    p.add_argument("--variants", default=",".join(VARIANTS), help=variants)
    p.add_argument("--build", default=str(ROOT / "build-cuda"), help="folder of hone-bench-step")
    p.add_argument("--hone", default="", help="more options for hone-bench-step, as one word")
    p.add_argument("--out", default=str(ROOT / "bench" / "results"))
    p.add_argument("--seconds", type=float, default=8.0, help="of continuous steps, at least")
    p.add_argument("--batch", type=int, default=0, help="other than the shape's")
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--device", default="cuda")
    p.add_argument("--commit", default="")
    p.add_argument("--timeout", type=float, default=400.0, help="seconds a variant may take in all")
    p.add_argument("--python", default=sys.executable, help="for the peers")
    p.add_argument("--no-compile", action="store_true")
    a = p.parse_args()
    if a.table:
        tables(a)
        return 0
    variants = a.variants.split(",")
    for v in variants:
        if v not in VARIANTS + OTHERS:
            p.error(f"--variants: no '{v}'; there are {', '.join(VARIANTS + OTHERS)}")
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    commit = a.commit or commit_of_tree()
    results = []
    for v in variants:
        print(f"== {v}", file=sys.stderr, flush=True)
        results.append(run(v, a, commit))
        print(json.dumps(results[-1]), flush=True)
        lines = "".join(json.dumps(r) + "\n" for r in results)
        (out / f"step-{a.shape}.jsonl").write_text(lines)
        (out / f"step-{a.shape}.md").write_text(table(results))
    print(table(results))
    return any("error" in r for r in results)


if __name__ == "__main__":
    sys.exit(main())
