"""Runs the cells of hyperflow.sh, stage by stage, and prints their tables.

    scripts/tables/hyperflow.sh [--smoke | --full | --only REGEX] [--seeds 0] [--out DIR]
                                [--shard i/n] [--device D] [--program FILE]
                                [--meta-dataset DIR [--meta-splits DIR] [--class-images N]]
                                [--cdfsl DIR] [--image N] [--trajectories N]

A setting is one run of hone-hyperflow in DIR/<setting>/run-s<seed>; a cell is one call of it:
trajectories (`generate`), a method of fine-tuning on all domains (`base`), a drift network
(`train`), its integration (`flow`), and what adaptation takes (`cost`). DIR/<cell>.json is what
came of it, DIR/<cell>.log what it said. A cell whose JSON is there is not run again; one that was
run with other options is an error. A call that takes longer than --limit seconds is stopped and
goes on in the next one: no stage loses what it has. Tables (Markdown) go to standard output and
DIR/hyperflow.md, pictures lie in the runs' folders (hyperflow_table.py; --tables-only makes them of
what is there).

Without --full: trajectories of CIFAR-100 and Omniglot, tests in and out of those domains and on
Omniglot's 20 one-shot runs (omniglot-runs; unpacked into DIR from the data's all_runs.zip), two
curves, numbers of steps. --full adds what else was tried: encoder, noise, knots, set of biases, one
shot, 40,000 trajectories. --meta-dataset: folders ilsvrc_2012 .. vgg_flower, traffic_sign, mscoco,
each with a folder for each class; their classes are split by the seed in shares of 64 / 16 / 20,
or with --meta-splits by the lists in DIR/<name>.txt (lines "train <class>", "valid <class>", "test
<class>", one for each class of the official split), and the table says which. Classes of omniglot
lie in folders of their alphabets, alphabet/character/, and are called so in its list: episodes are
of one alphabet. --cdfsl: folders CropDisease, EuroSAT, ISIC, ChestX.

Meta-Dataset draws the shots of an episode by how many images its classes have, so all images of its
sets are read. An image of a folder takes --image x --image x 3 bytes; host memory holds all sets of
a setting at once, and one set twice while it is read. A set of more than 32 GiB (at 224: 228,261
images) is refused; as they are published, ilsvrc_2012 and quickdraw have more. --class-images N is
the way out: of every class the first N images, in the order of the files' names, in the settings of
--meta-dataset and of --cdfsl trained on it. Shots are then drawn by these numbers, and the table
says so. Without it, --cdfsl takes the program's default.

The cells of a setting go to one shard and run one after the other. Data are found through HONE_DATA
(default ../shared/data).
"""

import argparse
import json
import re
import subprocess
import sys

import cells
import hyperflow_cells
import hyperflow_table


def arguments(work):
    p = argparse.ArgumentParser(
        prog="hyperflow.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cells.add_arguments(p, "hyperflow", [0], [0])
    p.add_argument("--program", default=str(cells.ROOT / "build" / "hone-hyperflow"))
    p.add_argument("--meta-dataset", help="folder with a folder for each of its data sets")
    p.add_argument("--meta-splits", help="folder with <name>.txt, the classes of each by their use")
    p.add_argument(
        "--class-images", type=int, default=0, help="of every class of --meta-dataset, at most; 0: all"
    )
    p.add_argument("--cdfsl", help="the same of CropDisease, EuroSAT, ISIC, ChestX")
    p.add_argument("--image", type=int, default=224, help="side of the images of those two")
    p.add_argument("--trajectories", type=int, default=4000, help="of those two")
    a = p.parse_args()
    if a.meta_splits and not a.meta_dataset:
        p.error("--meta-splits: of what --meta-dataset has")
    if a.class_images and not a.meta_dataset:
        p.error("--class-images: of what --meta-dataset has")
    if a.class_images < 0:
        p.error(f"--class-images {a.class_images}: 0 or more")
    if a.meta_dataset and hyperflow_cells.lacks_alphabets(a.meta_dataset):
        p.error(
            f"{a.meta_dataset}/omniglot: no folders of alphabets with those of their characters;"
            " Meta-Dataset's episodes of it are of one alphabet"
        )
    cells.settle(work, a)
    return a


def run_of(a, cell):
    return a.out / cell.setting / f"run-s{cell.seed}"


PLAN = {
    "adapt_mib": r"adaptation +([\d.]+) MiB planned",
    "whole_mib": r"with the backbone and the queries ([\d.]+)",
    "full_mib": r"full fine-tuning +([\d.]+) MiB",
    "adapt_gflop": r"adaptation +([\d.]+) GFLOP",
    "encoder_gflop": r"\(encoder ([\d.]+), drift",
    "drift_gflop": r"drift network ([\d.]+)\)",
    "full_gflop": r"full fine-tuning +([\d.]+) GFLOP",
    "classify_gflop": r"classification +([\d.]+) GFLOP",
}


class HyperflowWork(cells.Work):
    script = "hyperflow.sh"

    def files(self, cell):
        return cell.files

    def group(self, cell):
        return cell.group

    def alone(self, cell):
        return True  # one writer of a run

    def words(self, a, options):
        return [w.replace("{out}", str(a.out)) for w in cells.words_of(options, a.data)]

    def done(self, a, cell):
        run = run_of(a, cell)
        if cell.stage == "generate":
            if not (run / "trajectories.bin").exists():
                return False
            info = subprocess.run(
                [a.program, "info", "--run", str(run), "--device", "cpu"], capture_output=True, text=True
            )
            found = re.search(r"trajectories: (\d+) of (\d+)", info.stdout)
            return bool(found) and found[1] == found[2]
        if cell.stage == "train":
            return (run / cell.drift / "drift.safetensors").exists()
        if cell.stage == "cost":
            return all((run / name).exists() for name in ("plan.txt", "adapt.txt"))
        return all((run / "cells" / name).exists() for name in self.cell_files(cell))

    def labels(self, cell):
        """What the program calls the methods of a cell: with the words of an integration behind."""
        if cell.stage != "flow":
            return [cell.label]
        methods = cell.options["methods"].split(",")
        return [m + cell.label[len("hyperflow") :] for m in methods]

    def cell_files(self, cell):
        """All that one call of eval leaves: of every method and domain; descent is of no domain."""
        for label in self.labels(cell):
            if label.startswith("descent"):
                yield f"{label}.json"
            else:
                yield from (f"{label}.{t}.json" for t in cell.targets)

    def next(self, a, cell, run_folder):
        run = run_of(a, cell)
        # times are those of one GPU, and so are the networks
        machine = [f"--device={a.device}"] + ([] if a.device == "cpu" else ["--gpus=1"])
        if self.done(a, cell):
            return None
        if cell.stage == "generate":
            resume = ["--resume=auto"] if (run / "index.json").exists() else []
            words = self.words(a, {**cell.options, "out": run})
            return cells.Command("generate", [a.program, "generate", *words, *machine, *resume])
        if cell.stage == "cost":
            if not (run / "plan.txt").exists():
                words = self.words(a, {**cell.generate, **cell.options})
                words = [a.program, "plan", *words, *machine]
                return cells.Command("plan", words, run / "plan.txt")
            words = [a.program, "adapt", f"--run={run}", f"--of={cell.adapt}", f"--to={run}/adapted"]
            return cells.Command("adapt", words + machine, run / "adapt.txt")
        verb = "train" if cell.stage == "train" else "eval"
        words = [a.program, verb, f"--run={run}", *self.words(a, cell.options), *machine]
        return cells.Command(verb, words)

    def result(self, a, cell, run_folder, seconds):
        run = run_of(a, cell)
        if cell.stage == "generate":
            bytes_of = (run / "trajectories.bin").stat().st_size
            rates = json.loads((run / "rates.json").read_text())
            return {"stage_seconds": sum(cells.spent(a, cell).values()), "bytes": bytes_of, "rates": rates}
        if cell.stage == "train":
            return {"stage_seconds": sum(cells.spent(a, cell).values())}
        if cell.stage == "cost":
            plan, adapt = (run / "plan.txt").read_text(), (run / "adapt.txt").read_text()
            found = {key: re.search(pattern, plan) for key, pattern in PLAN.items()}
            figures = {key: float(m[1]) for key, m in found.items() if m}
            if device := re.search(r"plans for this device: (.*)", plan):
                figures["device"] = device[1]
            ms = re.search(r"([\d.]+) ms", adapt)
            return {**figures, "adapt_ms": float(ms[1]) if ms else None}
        found = {n: json.loads((run / "cells" / n).read_text()) for n in self.cell_files(cell)}
        descents = [c for n, c in found.items() if n.startswith("descent")]
        others = [c for n, c in found.items() if not n.startswith("descent")]
        return {"cells": others, "descent": descents[0] if descents else None}

    def summary(self, result):
        found = [c["mean"] for c in result.get("cells", [])]
        return f"{100 * sum(found) / len(found):.2f} %" if found else "done"


def run(work, a, chosen):
    """Stage by stage: each wants what the ones before it have left."""
    good = True
    for stage in ("generate", "base", "train", "flow", "cost"):
        those = [c for c in chosen if c.stage == stage]
        if not those:
            continue
        ended = cells.execute(work, a, those, [a.program])
        if ended is None:
            return False
        if not ended and stage in ("generate", "train"):
            print(f"stage {stage} is not whole: the next call goes on", file=sys.stderr)
            return False
        good = ended and good
    return good


def main():
    work = HyperflowWork()
    a = arguments(work)
    settings = hyperflow_cells.smoke() if a.smoke else hyperflow_cells.whole(a)
    chosen = cells.choose(work, a, hyperflow_cells.make(settings, a.seeds))
    if a.list:
        cells.show(work, a, chosen)
        return 0
    if a.smoke:
        hyperflow_cells.prepare(a.out)
    elif not a.tables_only and any("one-shot-runs" in c.options for c in chosen):
        hyperflow_cells.prepare_runs(a.out, a.data)
    good = a.tables_only or run(work, a, chosen)
    text = hyperflow_table.tables(a.out)
    print(text)
    if a.out.is_dir():
        (a.out / "hyperflow.md").write_text(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
