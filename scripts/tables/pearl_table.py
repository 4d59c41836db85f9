"""Tables and pictures of the cells that pearl_run.py has made. Every figure is read from a cell's
JSON; what has not been run is "-". Needs no more than Python; pictures need gnuplot.

Accuracies are in percent, of the network after the last task, mean and standard deviation over the
seeds. Task-IL: the task is known; Class-IL: it is found by a chooser. Differences are taken seed by
seed (the same seed has the same reference, order and batches) and then averaged.
"""

import json
import pathlib
import re
import shutil
import sys

import rank_map
from cells import deviation, head, mean, row
from pearl_cells import MAIN, RANKS

CHOOSERS = ("prototype", "max-logit", "min-entropy", "max-energy")
COUNT = "{:,.0f}"  # of parameters; equal ones have no deviation
ABLATION = r"(probe|init|rule|ref|norm|layers)-|truncate"

ANCHORS = """\
## Figures of other methods, under other protocols

Class- and task-incremental accuracies in percent, from the result lists of mammoth
(github.com/aimagelab/mammoth) as the specification of this project quotes them (2026-11-22; the
README of mammoth at commit 00c97486 has no accuracies, so they were not checked again). They were
obtained on whole data sets, with buffers or other networks where it says so: marks for orientation,
not comparisons.

| stream | method | accuracy |
|---|---|---:|
| CIFAR-10 5x2, Class-IL, ResNet-18 | online EWC | 20.11 |
| | LwF | 19.61 |
| | ER, buffer of 500 | 63.39 |
| CIFAR-10 5x2, Task-IL | PNN | 95.13 |
| CIFAR-100 10x10, Class-IL, ResNet-18 | LwF-MC | 16.22 |
| | DER++, buffer of 500 | 38.25 |
| | X-DER | 49.93 |
| CIFAR-100 at 224 pixels, 10 tasks, Class-IL, ViT-B | L2P | 83.83 |
| | CODA-Prompt | 86.25 |
| | DualPrompt | 86.51 |
| | IEL | 89.73 |
| | ITA | 90.12 |
| | SLCA | 91.53 |

PEARL's own tables (arXiv 2505.11998) were not available; no figure of them is quoted. Ranks, phases
and hyper-parameters here follow its abstract and our own choices.
"""


# ---- cells ----


class Done:
    """A cell that has been run."""

    def __init__(self, path):
        kept = json.loads(path.read_text())
        name = kept["asked"]["name"]
        self.place, _, rest = name.rpartition("/")
        self.kind, _, seed = rest.rpartition("-s")
        self.name, self.seed, self.ranks = name, int(seed), path.with_suffix(".ranks.csv")
        self.options, self.cell, self.metrics = (
            kept["asked"]["options"],
            kept["cell"],
            kept["metrics"],
        )
        self.seconds = kept["seconds"]

    def task_il(self):
        return 100 * self.metrics["AverageAccuracy"]

    def forgetting(self):
        v = self.metrics["StreamForgetting"]
        return None if v is None else 100 * v

    def class_il(self, chooser):
        found = self.cell["class_incremental"].get(chooser)
        return None if found is None else 100 * found["AverageAccuracy"]

    def prototype(self):
        return self.class_il("prototype")

    def added(self):
        return self.cell["added_parameters"]

    def updated(self):
        """Tasks that have updates: with --ref first, all but the first."""
        return [t for t in self.cell["per_task"] if t["base"] > 0 or t["mean_rank"] is not None]

    def update(self):
        """Parameters of a task's updates, low-rank and dense, on average."""
        parts = [t["parameters"] for t in self.updated()]
        sizes = [p["low_rank"] + p["dense"] for p in parts]
        return sum(sizes) / len(sizes) if sizes else None

    def rank(self):
        ranks = [t["mean_rank"] for t in self.updated() if t["mean_rank"] is not None]
        return sum(ranks) / len(ranks) if ranks else None

    def second(self, key):
        return self.cell["per_task"][1][key]


def read(out):
    """{stream/model: {kind: {seed: cell}}}, in the order of their names."""
    cells = {}
    for path in sorted(pathlib.Path(out).glob("*/*/*.json")):
        c = Done(path)
        cells.setdefault(c.place, {}).setdefault(c.kind, {})[c.seed] = c
    return cells


# ---- figures ----


def figure(values, form="{:.2f}"):
    """Mean and standard deviation as "71.23 (0.40)"; of one value no deviation."""
    if not values or None in values:
        return "-"
    text = form.format(mean(values))
    counted = form == COUNT and min(values) == max(values)
    return text if len(values) == 1 or counted else f"{text} ({form.format(deviation(values))})"


def of(kinds, kind, get, form="{:.2f}"):
    return figure([get(c) for c in kinds.get(kind, {}).values()], form)


def difference(kinds, ours, theirs, get):
    """Ours minus theirs of the seeds that both have."""
    a, b = kinds.get(ours, {}), kinds.get(theirs, {})
    pairs = [(get(a[s]), get(b[s])) for s in a if s in b]
    if any(None in pair for pair in pairs):
        return "-"
    text = figure([x - y for x, y in pairs], "{:+.2f}")
    return re.sub(r"\(\+", "(", text)


def seeds(kinds, kind):
    return str(len(kinds.get(kind, {}))) if kind in kinds else "-"


# ---- tables ----


def main_table(kinds):
    if not any(kind in kinds for kind in MAIN):
        return []
    title = ["strategy", "Task-IL", "forgetting", *(f"Class-IL, {c}" for c in CHOOSERS)]
    lines = ["Strategies:", "", *head(*title, "parameters added", "seeds")]
    for kind in MAIN:
        choosers = [of(kinds, kind, lambda c, n=n: c.class_il(n)) for n in CHOOSERS]
        lines.append(
            row(
                "lora, rank 8" if kind == "lora-8" else kind,
                of(kinds, kind, Done.task_il),
                of(kinds, kind, Done.forgetting),
                *choosers,
                of(kinds, kind, Done.added, COUNT),
                seeds(kinds, kind),
            )
        )
    return lines + [""]


def ranks_of(kinds):
    found = {int(k) for kind in kinds for k in re.findall(r"^(?:lora-|pearl-b)(\d+)$", kind)}
    return sorted(found | set(RANKS)) if any(k.startswith("pearl-b") for k in kinds) else []


def equal_table(kinds):
    ranks = ranks_of(kinds)
    if not ranks:
        return []
    lines = [
        "Dynamic rank (`--budget`) against one rank for all layers, at equal parameters. The budget"
        " is what the fixed rank takes; the parameters are those of a task's updates.",
        "",
        *head(
            *("rank", "parameters, fixed", "parameters, dynamic", "Task-IL, fixed"),
            *("Task-IL, dynamic", "dynamic - fixed", "Class-IL (prototype), fixed"),
            *("Class-IL, dynamic", "dynamic - fixed", "seeds"),
        ),
    ]
    for k in ranks:
        fixed, ours = f"lora-{k}", f"pearl-b{k}"
        words = [str(k)]
        words += [of(kinds, kind, Done.update, COUNT) for kind in (fixed, ours)]
        for get in (Done.task_il, Done.prototype):
            words += [of(kinds, fixed, get), of(kinds, ours, get)]
            words += [difference(kinds, ours, fixed, get)]
        lines.append(row(*words, f"{seeds(kinds, fixed)}, {seeds(kinds, ours)}"))
    return lines + [""]


def sweep_points(kinds, what):
    """(value, kind) of a sweep in rising order; the model's own value is kind pearl."""
    found = {float(k[len(what) + 1 :]): k for k in kinds if k.startswith(what + "-")}
    if what == "energy" and found and "pearl" in kinds:
        own = next(iter(kinds["pearl"].values())).options["energy"]
        found[float(own)] = "pearl"
    return sorted(found.items())


def measured(kinds, kind):
    return [
        of(kinds, kind, Done.rank),
        of(kinds, kind, Done.update, COUNT),
        of(kinds, kind, Done.task_il),
        of(kinds, kind, Done.prototype),
        seeds(kinds, kind),
    ]


MEASURED = ("mean rank", "parameters of updates", "Task-IL", "Class-IL (prototype)", "seeds")


def sweep_table(kinds):
    lines = []
    for what, text in (("energy", "share of energy (r1)"), ("eps", "eps (r2)")):
        points = sweep_points(kinds, what)
        if len(points) > 1:
            lines += [f"Sweep of the {text}:", "", *head(text, *MEASURED)]
            lines += [row(f"{value:g}", *measured(kinds, kind)) for value, kind in points]
            lines.append("")
    return lines


def ablation_table(kinds):
    found = [k for k in kinds if re.match(ABLATION, k)]
    if not found:
        return []
    lines = ["Ablations, one change each:", ""]
    lines += head("change", *MEASURED[:-1], "Task-IL - that of pearl", "seeds")
    for kind in ["pearl", *sorted(found)]:
        words = measured(kinds, kind)
        change = "" if kind == "pearl" else difference(kinds, kind, "pearl", Done.task_il)
        lines.append(row(kind, *words[:-1], change, words[-1]))
    return lines + [""]


def twice_table(kinds):
    if "twice-r1" not in kinds and "twice-r2" not in kinds:
        return []
    title = ("rule", "classes of task 2", "mean rank of task 2", "distance", "parameters", "seeds")
    lines = [
        "Task 1 fed twice, the reference being what it came to:",
        "",
        *head(*title, numbers_from=2),
    ]
    size = lambda c: c.second("parameters")["low_rank"] + c.second("parameters")["dense"]
    for rule in ("r1", "r2"):
        for kind, classes in ((f"twice-{rule}", "those of task 1"), (f"next-{rule}", "new ones")):
            lines.append(
                row(
                    rule,
                    classes,
                    of(kinds, kind, lambda c: c.second("mean_rank")),
                    of(kinds, kind, lambda c: c.second("distance"), "{:.4f}"),
                    of(kinds, kind, size, COUNT),
                    seeds(kinds, kind),
                )
            )
    return lines + [""]


def settings_line(kinds):
    """What all cells of a network have in common; differing values are all named."""
    cells = [c for kind in kinds.values() for c in kind.values()]
    words = []
    for key in ("epochs", "batch-size", "optimizer", "lr", "dtype"):
        words.append(f"{key} {', '.join(sorted({c.options[key] for c in cells}))}")
    devices = ", ".join(sorted({c.cell["device"] for c in cells}))
    longest = max(c.seconds for c in cells)
    return f"{'; '.join(words)}; {devices}. {len(cells)} cells, the longest {longest:.0f} s."


def tables(out, wanted):
    """Markdown; `wanted` are the names of the cells that were asked for."""
    cells = read(out)
    there = {c.name for kinds in cells.values() for kind in kinds.values() for c in kind.values()}
    lines = ["# Continual learning: hone-pearl", "", *__doc__.split("\n\n", 1)[1].splitlines(), ""]
    for place, kinds in cells.items():
        lines += [f"## {place}", "", settings_line(kinds), ""]
        for part in (equal_table, main_table, twice_table, sweep_table, ablation_table):
            lines += part(kinds)
    missing = [name for name in wanted if name not in there]
    if missing:
        kinds = sorted({name.rpartition("-s")[0] for name in missing})
        lines += [f"{len(missing)} of {len(wanted)} cells are missing: {', '.join(kinds)}.", ""]
    return "\n".join(lines) + "\n" + ANCHORS


# ---- pictures ----

STYLE = """
set encoding utf8
set border 3 lc rgb '#555555'
set tics nomirror scale 0.5
set grid lc rgb '#dddddd'
set logscale x
set format x '%.0s %c'
set xlabel 'parameters of the updates of a task'
set ylabel 'Task-IL accuracy, %'
set key below
"""
SERIES = (
    ("energy", "share of energy", "#2171b5"),
    ("eps", "eps", "#d94801"),
    ("pearl-b", "dynamic, with a budget", "#238b45"),
    ("lora", "one rank for all layers", "#555555"),
)


def points(kinds, what):
    """(parameters, accuracy, deviation, label) of a series."""
    if what in ("energy", "eps"):
        named = sweep_points(kinds, what)
    else:
        named = [(k, f"lora-{k}" if what == "lora" else f"pearl-b{k}") for k in ranks_of(kinds)]
    found = []
    for value, kind in named:
        cells = list(kinds.get(kind, {}).values())
        sizes, accuracy = [c.update() for c in cells], [c.task_il() for c in cells]
        if sizes and mean(sizes) > 0:  # no parameters have no place on a logarithmic axis
            spread = deviation(accuracy) if len(accuracy) > 1 else 0
            found.append((mean(sizes), mean(accuracy), spread, f"{value:g}"))
    return found


def curve(place, kinds, to):
    """Accuracy against parameters, of the sweeps and of the fixed ranks."""
    series = [(points(kinds, what), title, colour) for what, title, colour in SERIES]
    series = [s for s in series if s[0]]
    if not series:
        return
    text, plots = "", []
    for i, (rows, title, colour) in enumerate(series):
        body = "\n".join("\t".join(map(str, r)) for r in rows)
        text += f"$s{i} << EOD\n{body}\nEOD\n"
        plots.append(f"$s{i} using 1:2:3 with yerrorlines pt 7 lc rgb '{colour}' title '{title}'")
        plots.append(f"$s{i} using 1:2:4 with labels offset 1,0.7 tc rgb '{colour}' notitle")
    text += f"set title {rank_map.quoted(place)} noenhanced\nplot {', '.join(plots)}\n"
    rank_map.draw(str(to), 800, 520, STYLE + text)


def heat_map(kinds, to):
    """The ranks of the first seed of pearl."""
    cell = min(kinds.get("pearl", {}).values(), key=lambda c: c.seed, default=None)
    if cell is None or not cell.ranks.exists():
        return
    tasks, layers, ranks = rank_map.read(cell.ranks)
    width = 8 * max(len(layer) for layer in layers) + 160 + 62 * len(tasks)
    text = rank_map.script(tasks, layers, ranks, cell.name)
    rank_map.draw(str(to), width, 110 + 24 * len(layers), text)


def pictures(out):
    if shutil.which("gnuplot") is None:
        print("no gnuplot: no pictures; --tables-only draws them elsewhere", file=sys.stderr)
        return
    for place, kinds in read(out).items():
        name = place.replace("/", "-")
        curve(place, kinds, pathlib.Path(out) / f"curve-{name}")
        heat_map(kinds, pathlib.Path(out) / f"ranks-{name}")
