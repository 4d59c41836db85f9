"""Tables and pictures of the cells that fedref_run.py has made. Every figure is read from a cell's
JSON; what has not been run is "-". Needs no more than Python; pictures need gnuplot.

Accuracies are in percent, of test images (volumes: the mean Dice of the classes but background),
mean and standard deviation over the seeds. Late: the mean over the last tenth of what was measured,
at least three; last: of the last round; best: of any that was measured. Each method runs at the
learning rate that was best on images held out of the training set, with one seed of its own, over
half of the rounds (at least 20; of CIFAR-10 at alpha 0.1 over all; the mean over the last fifth of
what was measured there): one that is best only later is not found. A rate at which a client
diverged there (its update was not finite, and rejected) loses to any at which none did. fedref-v1
and lambda 0 take FedAvg's. "*" behind a rate: the least or largest that was tried, a better one may
lie beyond. Where MNIST's clients are a hundred, every second round is measured. Differences are to
FedAvg of the same seed (the same clients, images, schedule and first weights) and then averaged.
Targets are those that fedref_cells.py declares; seeds that did not reach one are not in its mean.
Forgetting, in points of accuracy: the best of earlier rounds minus the last, at least 0; by class:
the same of each class, and then the mean.
"""

import json
import pathlib
import re
import shutil
import sys

import rank_map
from cells import deviation, head, mean, row
from fedref_cells import METHODS
from fedref_published import PUBLISHED

TITLES = {
    "methods": "Methods",
    "penalties": "Penalties: lambda of the reference, mu of FedProx",
    "payload": "Payload: what travels",
    "claim": "LoRA of rank 8 on q and v against everything",
    "robust": "Robustness",
    "time": "Time",
    "ways": "Time: ways to simulate clients",
    "segmentation": "Segmentation",
}


# ---- cells ----


class Done:
    """A cell that has been run."""

    def __init__(self, path):
        kept = json.loads(path.read_text())
        self.kept, self.name, self.options = kept, kept["asked"]["name"], kept["asked"]["options"]
        self.stream, self.part, rest = self.name.split("/")
        self.kind, rate, seed = re.fullmatch(r"(.*?)(?:-lr([\de.-]+))?-s(\d+)", rest).groups()
        self.rate, self.seed = float(self.options["lr"]), int(seed)
        self.score = kept.get("score", "accuracy")
        self.curve = kept[f"by_round_{self.score}"]
        self.each = int(self.options.get("eval-every", 1))  # rounds from point to point of it

    def __getattr__(self, key):
        if key not in self.kept:
            raise AttributeError(key)
        return self.kept[key]

    def late(self):
        """%, the mean over the last tenth of what was measured, at least three, for one is noise; of
        a choice, which measures less often, the last fifth."""
        share = 5 if self.part == "choice" else 10
        return 100 * mean(self.curve[-max(3, len(self.curve) // share) :])

    def last(self):
        return 100 * self.kept[f"last_{self.score}"]

    def best(self):
        return 100 * self.kept[f"best_{self.score}"]

    def forgot(self):
        return 100 * self.forgetting

    def class_forgot(self):
        return 100 * self.class_forgetting

    def megabytes(self):
        return None if self.bytes_to_target is None else self.bytes_to_target / 1e6

    def message(self):
        """Bytes that a client sends in a round."""
        return self.bytes_up / (self.rounds_done * self.per_round)

    def typical(self, what):
        """The median, which knows no first round's preparations."""
        values = sorted(getattr(self, f"by_round_{what}"))
        return values[len(values) // 2]


class Place:
    """The cells of a stream's part: {kind: {seed: cell}}."""

    def __init__(self):
        self.kinds, self.diverged = {}, {}

    def add(self, c):
        kinds = self.diverged if "diverged" in c.kept else self.kinds
        kinds.setdefault(c.kind, {})[c.seed] = c

    def overflows(self, kind):
        """What stands in the place of a figure of seeds that all overflowed."""
        n = len(self.diverged.get(kind, {}))
        return f"overflows ({n} of {n + len(self.kinds.get(kind, {}))} seeds)" if n else None

    def of_volumes(self):
        return self.all()[0].score == "dice"

    def all(self):
        return [c for seeds in self.kinds.values() for c in seeds.values()]

    def of(self, kind, get, form="{:.2f}"):
        return figure([get(c) for c in self.kinds.get(kind, {}).values()], form)

    def reached(self, kind, get, form):
        """The mean over those that reached the target."""
        values = [get(c) for c in self.kinds.get(kind, {}).values()]
        there = [v for v in values if v is not None]
        if not values:
            return "-"
        if not there:
            return "not reached"
        text = figure(there, form)
        return text if len(there) == len(values) else f"{text}, {len(there)} of {len(values)} seeds"

    def difference(self, ours, theirs, get):
        """Ours minus theirs of the seeds that both have."""
        a, b = self.kinds.get(ours, {}), self.kinds.get(theirs, {})
        text = figure([get(a[s]) - get(b[s]) for s in a if s in b], "{:+.2f}")
        return re.sub(r"\(\+", "(", text)

    def all_seeds(self):
        """As "3 seeds (0, 1, 2)"."""
        those = sorted({c.seed for c in self.all()})
        return f"{len(those)} seed{'s' * (len(those) > 1)} ({', '.join(map(str, those))})"

    def seeds(self, kind):
        return str(len(self.kinds[kind])) if kind in self.kinds else "-"


def figure(values, form="{:.2f}"):
    """Mean and standard deviation as "71.23 (0.40)"; of one value no deviation."""
    if not values or None in values:
        return "-"
    if abs(mean(values)) >= 1e9:  # the loss of a run that diverged
        form = "{:.1e}"
    text = form.format(mean(values))
    return text if len(values) == 1 else f"{text} ({form.format(deviation(values))})"


def cells_in(out):
    for path in sorted(pathlib.Path(out).glob("*/*/*.json")):
        if path.parts[-2] in ("choice", "run", "robust", "time", "ways"):
            yield Done(path)


def choices(out):
    """{(stream, kind): {rate: (whether no client diverged, late accuracy)}} of what was tried."""
    found = {}
    for c in cells_in(out):
        if c.part == "choice":
            found.setdefault((c.stream, c.kind), {})[c.rate] = (c.kept.get("rejected") == 0, c.late())
    return found


def best_rate(rates):
    """The lowest of equals."""
    return max(sorted(rates), key=rates.get)


class Kept:
    """All that is there."""

    def __init__(self, out):
        self.places, self.rates = {}, choices(out)
        for c in cells_in(out):
            if c.part != "choice":
                self.places.setdefault((c.stream, c.part), Place()).add(c)

    def part(self, part):
        return {stream: p for (stream, q), p in self.places.items() if q == part}

    def rate(self, stream, p, kind):
        seeds = p.kinds.get(kind)
        if not seeds:
            return "-"
        rate, tried = next(iter(seeds.values())).rate, self.rates.get((stream, kind), {})
        edge = len(tried) > 1 and rate in (min(tried), max(tried))
        return f"{rate:g}{'*' if edge else ''}"


# ---- tables: each yields the lines of a stream, none where it has none of its cells ----

MEASURED = ("late", "minus fedavg", "last", "best", "loss")


def measured(p, kind, base="fedavg"):
    return [
        p.overflows(kind) or p.of(kind, Done.late),
        "" if kind == base else p.difference(kind, base, Done.late),
        p.of(kind, Done.last),
        p.of(kind, Done.best),
        p.of(kind, lambda c: c.kept.get("last_loss"), "{:.3f}"),
    ]


REACHED = ("rounds to target", "MB to target", "forgetting", "by class")


def reached(p, kind):
    return [
        p.reached(kind, lambda c: c.rounds_to_target, "{:.0f}"),
        p.reached(kind, Done.megabytes, "{:,.1f}"),
        p.of(kind, Done.forgot),
        p.of(kind, Done.class_forgot),
    ]


def methods_table(kept, stream, p):
    if p.of_volumes() or ("fedref-v3" not in p.kinds and "median" not in p.kinds):
        return
    yield from head("method", "rate", *MEASURED, *REACHED, "seeds")
    for kind in METHODS:
        rate = kept.rate(stream, p, kind)
        yield row(kind, rate, *measured(p, kind), *reached(p, kind), p.seeds(kind))


def segmentation_table(kept, stream, p):
    if not p.of_volumes():
        return
    yield (
        "Dice of the voxels of all held-out regions together; HD95: the 95th percentile of the"
        " distances between surfaces, in mm, of the last round, the mean over classes and regions (a"
        " class that only one of the masks has: the region's diagonal)."
    )
    yield ""
    yield from head("method", "rate", *MEASURED[:-1], "HD95, mm", *REACHED, "seeds")
    for kind in (name for name in METHODS if name in p.kinds):
        yield row(
            kind,
            kept.rate(stream, p, kind),
            *measured(p, kind)[:-1],
            p.of(kind, lambda c: c.last_hd95_mm, "{:.2f}"),
            *reached(p, kind),
            p.seeds(kind),
        )


PENALTIES = (
    ("lambda-0", "v3, lambda2 0 (is fedavg)"),
    ("lambda-0.03", "v3, lambda2 0.03"),
    ("lambda-0.1", "v3, lambda2 0.1"),
    ("lambda-0.3", "v3, lambda2 0.3"),
    ("lambda-1", "v3, lambda2 1"),
    ("fedref-v3", "v3, lambda2 from 0.01 to 0.3"),
    ("v3-uniform", "the same, aggregates weigh alike"),
    ("v3-sent", "the same, lambda1 0.1"),
    ("v1-client-rate", "v1 at the clients' rate (of fedavg)"),
    ("mu-0.01", "fedprox, mu 0.01"),
    ("fedprox", "fedprox, mu 0.1"),
    ("mu-1", "fedprox, mu 1"),
)


def penalties_table(kept, stream, p):
    if not any(kind.startswith("lambda-") for kind in p.kinds):
        return
    yield from head("", "rate", *MEASURED, *REACHED[:2], "seeds")
    for kind, title in (("fedavg", "fedavg"), *PENALTIES):
        if kind not in p.kinds and kind not in p.diverged:
            continue
        rate = kept.rate(stream, p, kind)
        yield row(title, rate, *measured(p, kind), *reached(p, kind)[:2], p.seeds(kind))


PAYLOADS = (
    ("full", "all parameters"),
    ("full-bf16", "all parameters, bf16"),
    ("full-topk", "all parameters, top 5 %"),
    ("lora", "LoRA, rank 8, and the head"),
    ("lora-bf16", "the same, bf16"),
    ("lora-topk", "the same, top 5 %"),
    ("head", "the head"),
    ("adamw-lora", "LoRA, rank 8, and the head, by adamw"),
    ("adamw-sparse", "blocks, as many values, and the head, by adamw"),
)


def payload_table(kept, stream, p):
    there = [(kind, title) for kind, title in PAYLOADS if kind in p.kinds]
    if not there:
        return
    yield (
        "Clients train by sgd where nothing else is said. Blocks of weights are trained by adamw"
        " alone: their neighbour is LoRA by adamw, of the same matrices. Which blocks there are"
        " is sent once and is part of the run's MB."
    )
    yield ""
    yield from head(
        *("payload", "rate", "values", "bytes up, a client and round", "of the whole, %"),
        *("late", "minus the whole", "MB of the run", *REACHED[:2], "seeds"),
    )
    dense = dense_message(p)
    for kind, title in there:
        share = p.of(kind, lambda c: dense and 100 * c.message() / dense, "{:.2f}")
        yield row(
            title,
            kept.rate(stream, p, kind),
            p.of(kind, lambda c: c.payload_values, "{:,.0f}").partition(" (")[0],
            p.of(kind, Done.message, "{:,.0f}").partition(" (")[0],
            share.partition(" (")[0],
            p.of(kind, Done.late),
            "" if kind == "full" else p.difference(kind, "full", Done.late),
            p.of(kind, lambda c: (c.bytes_up + c.bytes_down) / 1e6, "{:,.1f}").partition(" (")[0],
            *reached(p, kind)[:2],
            p.seeds(kind),
        )


def dense_message(p):
    return next((c.message() for c in p.kinds.get("full", {}).values()), None)


LIMIT = 2  # % of the dense payload, for the ViT-Tiny of 5.5 million values


def claim_table(kept, stream, p):
    lora = next(iter(p.kinds.get("lora", {}).values()), None)
    dense = dense_message(p)
    if not (lora and dense and "lora-targets" in lora.options) or of_all_layers(lora):
        return
    share = 100 * lora.message() / dense
    yield (
        f"At most {LIMIT} % is asked of ViT-Tiny (vit_tiny_patch16_224); smaller networks have a"
        " larger share of heads and pairs. Where q, k and v are one matrix (attn.qkv), its pair of"
        " rank 8 has as many values as those of q and of v alone: 8 (3 + 1) d = 2 x 8 (1 + 1) d."
    )
    yield ""
    yield from head(
        *("payload", "values", "bytes up, a client and round", "of the whole, %"),
        *(f"at most {LIMIT} %", "late", "minus the whole", "last", "seeds"),
    )
    for kind in ("full", "lora"):
        one = next(iter(p.kinds[kind].values()))
        yield row(
            dict(PAYLOADS)[kind],
            f"{one.payload_values:,}",
            f"{one.message():,.0f}",
            "100" if kind == "full" else f"{share:.2f}",
            "" if kind == "full" else "yes" if share <= LIMIT else "no",
            p.of(kind, Done.late),
            "" if kind == "full" else p.difference(kind, "full", Done.late),
            p.of(kind, Done.last),
            p.seeds(kind),
        )


def of_all_layers(c):
    return c.options["lora-targets"] == "all-linear"


def robust_table(kept, stream, p):
    yield (
        "Injected: in each round two clients send NaN, another shape, a stale round, garbage or a"
        " cut message; those are refused and the round goes on with the others. Absent: 20 % of the"
        " answers never come, 20 % of the clients do only a part of their steps. Updates that are"
        " finite and wrong are not built into hone-fedref's --inject, so what median and"
        " trimmed-mean are for is not shown here: it is their price."
    )
    yield ""
    yield from head(
        *("method", "clean", "injected", "minus clean", "refused, a run", "absent", "minus clean"),
        "seeds",
    )
    for name in ("fedavg", "median", "trimmed-mean", "fedref-v3"):
        clean, injected, absent = (f"{name}-{what}" for what in ("clean", "injected", "absent"))
        yield row(
            name,
            p.of(clean, Done.late),
            p.of(injected, Done.late),
            p.difference(injected, clean, Done.late),
            p.of(injected, lambda c: c.rejected, "{:.0f}").partition(" (")[0],
            p.of(absent, Done.late),
            p.difference(absent, clean, Done.late),
            p.seeds(clean),
        )


def time_table(kept, stream, p):
    c = next(iter(p.all()))
    yield (
        f"Nothing ran beside these. Clients are simulated as: {c.simulate}. The median over"
        f" {c.rounds_done} rounds."
    )
    yield ""
    yield from head(
        "method", "clients of a round, s", "server, ms", "measurement, s", "message up, bytes"
    )
    for kind in METHODS:
        yield row(
            kind,
            p.of(kind, lambda c: c.typical("client_s"), "{:.4f}"),
            p.of(kind, lambda c: c.typical("server_ms"), "{:.3f}"),
            p.of(kind, lambda c: c.typical("eval_s"), "{:.4f}"),
            p.of(kind, lambda c: c.message_bytes_up, "{:,.0f}"),
        )


WAYS = (
    ("one", "one after the other"),
    *((f"lanes-{n}", f"{n} lanes: each on a stream of its own") for n in (2, 4, 8)),
    ("replicas", "replicas of one engine"),
    ("block", "each in a block of the GPU"),
)


def ways_table(kept, stream, p):
    client_s = lambda c: c.typical("client_s")
    base = p.kinds.get("one", {})
    example = p.all()[0]
    yield (
        f"fedavg, payload {example.options['payload']}; nothing ran beside these. The median over"
        f" {example.rounds_done} rounds. Lanes give the same bits, replicas and blocks the same"
        " within rounding: accuracy after the last round."
    )
    yield ""
    yield from head("clients", "clients of a round, s", "times as fast", "accuracy, %")
    for kind, title in WAYS:
        times = lambda c: client_s(base[c.seed]) / client_s(c) if c.seed in base else None
        faster = p.of(kind, times, "{:.2f}")
        yield row(title, p.of(kind, client_s, "{:.4f}"), faster, p.of(kind, Done.last))


TABLES = {
    "methods": ("run", methods_table),
    "penalties": ("run", penalties_table),
    "payload": ("run", payload_table),
    "robust": ("robust", robust_table),
    "claim": ("run", claim_table),
    "time": ("time", time_table),
    "ways": ("ways", ways_table),
    "segmentation": ("run", segmentation_table),
}
SETTINGS = (
    *("model", "partition", "alpha", "clients", "per-round", "rounds", "epochs", "batch-size"),
    *("channels", "sites", "scale-spread", "shift-spread", "patch", "per-region"),
)


def settings_line(p):
    """What all cells of a stream have in common."""
    words, those = [], p.all()
    for key in (*SETTINGS, "target"):
        found = sorted({c.options[key] for c in those if key in c.options})
        words += [f"{key} {', '.join(found)}"] if found else []
    simulated, devices = (", ".join(sorted(set(found))) for found in zip(*map(where, those)))
    return f"{'; '.join(words)}; {p.all_seeds()}. Simulated: {simulated}; {devices}."


def where(c):
    return c.simulate, c.device


def section(name, kept):
    lines = []
    part, table = TABLES[name]
    for stream, p in kept.part(part).items():
        rows = list(table(kept, stream, p))
        lines += [f"### {stream}", "", settings_line(p), "", *rows, ""] if rows else []
    return lines or ["Not run.", ""]


def tables(out, wanted):
    """Markdown; `wanted` are the names of the cells that were asked for."""
    kept = Kept(out)
    there = {c.name for c in cells_in(out)}
    lines = ["# Federated training: hone-fedref", "", *__doc__.split("\n\n", 1)[1].splitlines(), ""]
    for name, title in TITLES.items():
        lines += [f"## {title}", "", *section(name, kept)]
        if name in PUBLISHED:
            lines += ["Published:", "", *PUBLISHED[name].splitlines(), ""]
    missing = [name for name in wanted if name not in there]
    if missing:
        kinds = sorted({re.sub(r"(-lr[\de.-]+)?-s\d+$", "", name) for name in missing})
        lines += [f"{len(missing)} of {len(wanted)} cells are missing: {', '.join(kinds)}.", ""]
    return "\n".join(lines)


# ---- pictures ----

STYLE = """
set encoding utf8
set border 3 lc rgb '#555555'
set tics nomirror scale 0.5
set grid lc rgb '#dddddd'
set xlabel 'round'
set ylabel 'test accuracy, %'
set key outside right
"""
COLOURS = (
    *("#333333", "#8c6d31", "#756bb1", "#e7298a", "#fb6a4a", "#74c476", "#238b45", "#6baed6"),
    *("#bbbbbb", "#fd8d3c", "#2171b5"),
)


def averages(seeds):
    """Rounds and accuracies, the mean over the seeds."""
    those = list(seeds.values())
    means = [100 * mean(values) for values in zip(*(c.curve for c in those))]
    each, last = those[0].each, those[0].rounds_done  # which is measured in any case
    return [(min((i + 1) * each, last), v) for i, v in enumerate(means)]


def curves(stream, p, kinds, to):
    text, plots = "", []
    for i, (kind, title) in enumerate(kinds):
        rows = "\n".join(f"{r}\t{v:.4f}" for r, v in averages(p.kinds[kind]))
        text += f"$s{i} << EOD\n{rows}\nEOD\n"
        style = f"lw {3 if kind == 'fedref-v3' else 1.5} lc rgb '{COLOURS[i % len(COLOURS)]}'"
        plots.append(f"$s{i} using 1:2 with lines {style} title {rank_map.quoted(title)}")
    target = next(iter(p.kinds[kinds[0][0]].values())).target
    if target:
        plots.append(f"{100 * target} with lines dashtype 2 lc rgb '#999999' title 'target'")
    if p.of_volumes():
        text += "set ylabel 'mean Dice of held-out regions, %'\n"
    text += f"set title {rank_map.quoted(stream)} noenhanced\nplot {', '.join(plots)}\n"
    rank_map.draw(str(to), 900, 520, STYLE + text)


def pictures(out):
    if shutil.which("gnuplot") is None:
        print("no gnuplot: no pictures; --tables-only draws them elsewhere", file=sys.stderr)
        return
    for stream, p in Kept(out).part("run").items():
        for what, known in (
            ("methods", [(kind, kind) for kind in METHODS]),
            ("penalties", [("fedavg", "fedavg"), *PENALTIES]),
            ("payload", PAYLOADS),
        ):
            kinds = [(kind, title) for kind, title in known if kind in p.kinds]
            if len(kinds) > 1 and (what != "penalties" or "lambda-1" in p.kinds):
                curves(stream, p, kinds, pathlib.Path(out) / f"{what}-{stream}")
