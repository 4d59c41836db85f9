"""Tables and pictures of the cells that sparse_run.py has made. Every figure is read from a cell's
JSON; what has not been run is "-". Needs no more than Python; pictures need gnuplot.

Losses are in nats a token (of babyllama: a character), mean and standard deviation over the seeds,
lower is better. test: a part of the target's text that neither training nor the choice of the
learning rate has seen. source: stories that the base model has written before; its rise is what
was forgotten. Of each method the learning rate with the least loss on a third part (valid) stands
there, of the first seed where the others ran at that rate alone; "*" behind it: it is the least or
largest that was tried, and a better one may lie beyond.
Differences are taken seed by seed and then averaged. b<rank>: as many trained values as LoRA of
that rank on all linear layers has (methods with blocks as many as whole blocks make; DoRA its
magnitudes besides).
"""

import json
import pathlib
import re
import shutil
import sys

import rank_map
from cells import deviation, head, mean, row
from sparse_cells import BLOCKS, MODELS, SCORES, TARGETS, divides
from sparse_published import PUBLISHED

METHODS = (  # kind, title
    ("lora", "LoRA"),
    ("dora", "DoRA"),
    ("s2ft", "S2FT preset"),
    ("smt", "SMT preset"),
    ("spiel", "SpIEL preset"),
    ("lift", "LIFT preset"),
    ("absd", "ABSD static"),
    ("dynamic", "ABSD dynamic"),
)
GRID = (
    ("lora", "LoRA"),
    ("one", "sparse, mask of 1 batch"),
    ("many", "sparse, mask of 32 batches"),
    ("rosa", "half LoRA, half sparse"),
)
TITLES = {
    "T1": "equal budgets",
    "T2": "sweep of the budget",
    "T3": "LoRA, sparse and both",
    "T4": "memory",
    "T5": "as the PEFT bench has it",
    "T6": "scores",
    "T7": "block sizes",
    "T8": "reselection",
    "T9": "forgetting",
    "T10": "time of a step",
}


# ---- cells ----


class Done:
    """A cell that has been run."""

    def __init__(self, path):
        self.kept = json.loads(path.read_text())
        self.name, self.options = self.kept["asked"]["name"], self.kept["asked"]["options"]
        self.place, _, rest = self.name.rpartition("/")
        self.kind, rate, seed = re.fullmatch(r"(.*?)(?:-lr([\de.-]+))?-s(\d+)", rest).groups()
        self.rate, self.seed = float(rate or 0), int(seed)

    def __getattr__(self, key):
        if key not in self.kept:
            raise AttributeError(key)
        return self.kept[key]

    def replaced(self):
        """Part of the blocks that a reselection has replaced, %, on average."""
        parts = [100 * n / blocks for _, n, blocks in self.selections]
        return sum(parts) / len(parts) if parts else None


class Place:
    """The cells of a model on a target."""

    def __init__(self, name):
        self.name, self.kinds = name, {}
        self.model = name.rpartition("/")[2]

    def add(self, c):
        self.kinds.setdefault(c.kind, {}).setdefault(c.rate, {})[c.seed] = c

    def best(self, kind):
        """{seed: cell} at the learning rate that valid chooses, among those with most seeds."""
        rates = self.kinds.get(kind)
        if not rates:
            return {}
        most = max(len(seeds) for seeds in rates.values())
        those = [seeds for seeds in rates.values() if len(seeds) == most]
        if len(those) == 1:
            return those[0]
        return min(those, key=lambda seeds: mean([c.valid for c in seeds.values()]))

    def rate(self, kind):
        rates, best = self.kinds.get(kind), self.best(kind)
        if not best:
            return "-"
        rate = next(iter(best.values())).rate
        edge = len(rates) > 1 and rate in (min(rates), max(rates))
        return f"{rate:g}{'*' if edge else ''}"

    def of(self, kind, get, form="{:.4f}"):
        return figure([get(c) for c in self.best(kind).values()], form)

    def loss(self, kind):
        return self.of(kind, lambda c: c.test)

    def difference(self, ours, theirs):
        """Test loss of ours minus theirs, of the seeds that both have."""
        a, b = self.best(ours), self.best(theirs)
        text = figure([a[s].test - b[s].test for s in a if s in b], "{:+.4f}")
        return re.sub(r"\(\+", "(", text)

    def base(self):
        return next(iter(self.kinds.get("base", {}).get(0, {}).values()), None)

    def rise(self, kind):
        base = self.base()
        return self.of(kind, lambda c: base and c.source - base.source, "{:.4f}")

    def ranks(self, *kinds):
        """Budgets b<rank> that there are of these kinds."""
        names = "|".join(kinds)
        found = (re.fullmatch(rf"(?:{names})-b(\d+)", kind) for kind in self.kinds)
        return sorted({int(m[1]) for m in found if m})

    def compared(self):
        """Budgets of T1: those of all methods, or where there are but a few, of these."""
        return self.ranks("s2ft") or self.ranks("absd")

    def methods(self):
        """(kind, title) of T1's methods."""
        whole = bool(self.ranks("s2ft"))
        known = lambda kind: whole or self.ranks(kind)
        return [(kind, title) for kind, title in METHODS if known(kind)]

    def seeds(self, kind):
        return str(len(self.best(kind))) if kind in self.kinds else "-"

    def density(self, c):
        """Trained values as part of those of the linear layers."""
        m = MODELS[self.model]
        h, kv, f = m.hidden, m.kv, m.inner
        return c.trained / (m.layers * (2 * h * h + 2 * kv * h + 3 * f * h))


def read(out):
    """{place: cells}, the targets' first, in the order of their names."""
    places = {}
    for path in sorted(pathlib.Path(out).glob("*/*/*.json")):
        if path.parts[-3] in (*TARGETS, "memory", "step"):
            c = Done(path)
            places.setdefault(c.place, Place(c.place)).add(c)
    return places


def figure(values, form="{:.4f}"):
    """Mean and standard deviation as "1.6382 (0.0016)"; of one value no deviation."""
    if not values or None in values:
        return "-"
    text = form.format(mean(values))
    same = min(values) == max(values) and not form.endswith("f}")
    return text if len(values) == 1 or same else f"{text} ({form.format(deviation(values))})"


COUNT = "{:,.0f}"


def count(place, kind, get):
    """Whole numbers, which hardly differ between seeds."""
    values = [get(c) for c in place.best(kind).values()]
    return COUNT.format(mean(values)) if values and None not in values else "-"


# ---- tables: each a function of a place, [] where it has none of its cells ----


def equal_table(p):
    if "full" not in p.kinds or not p.compared():
        return []
    lines = head(
        *("budget", "method", "trained values", "learning rate", "test loss"),
        *("minus that of LoRA", "source loss rises by", "seeds"),
        numbers_from=2,
    )
    base = p.base()
    if base:
        lines.append(row("", "before", "0", "", f"{base.test:.4f}", "", "", ""))
    for rank, kind, title in [("", "full", "full fine-tuning")] + [
        (f"b{r}", f"{k}-b{r}", title) for r in p.compared() for k, title in p.methods()
    ]:
        lora = f"lora-{rank}"
        lines.append(
            row(
                rank,
                title,
                count(p, kind, lambda c: c.trained),
                p.rate(kind),
                p.loss(kind),
                "" if not rank or kind == lora else p.difference(kind, lora),
                p.rise(kind),
                p.seeds(kind),
            )
        )
    return lines


def budget_table(p):
    kinds = [(k, t) for k, t in METHODS if k in ("lora", "smt", "lift", "absd")]
    ranks = p.ranks(*(k for k, _ in kinds))
    if len(ranks) < 3:
        return []
    lines = head("budget", "part of the linear layers, %", *(t for _, t in kinds))
    for rank in ranks:
        cell = next(iter(p.best(f"lora-b{rank}").values()), None)
        part = f"{100 * p.density(cell):.2f}" if cell else "-"
        lines.append(row(f"b{rank}", part, *(p.loss(f"{k}-b{rank}") for k, _ in kinds)))
    return lines


def grid_table(p):
    ranks = p.ranks("one")
    if not ranks:
        return []
    lines = head(
        "budget", "method", *(steps_of(p, ranks, w) for w in ("", "-long")), numbers_from=2
    )
    for rank in ranks:
        for kind, title in GRID:
            losses = (p.loss(f"{kind}-b{rank}{words}") for words in ("", "-long"))
            lines.append(row(f"b{rank}", title, *losses))
    return lines


def steps_of(p, ranks, words):
    kinds = (f"{kind}-b{rank}{words}" for rank in ranks for kind, _ in GRID)
    found = {c.options["steps"] for kind in kinds for c in p.best(kind).values()}
    return f"{'/'.join(sorted(found))} steps" if found else "longer"


def bench_table(p):
    ranks = p.compared()
    if "full" not in p.kinds or not ranks:
        return []
    lines = head(
        *("method", "trained values", "test loss", "source loss rises by"),
        *("memory plan, GiB", "train s", "file MiB"),
    )
    of = lambda get, form: lambda kind: p.of(kind, get, form)
    columns = (
        lambda kind: count(p, kind, lambda c: c.trained),
        p.loss,
        p.rise,
        of(lambda c: c.plan_gib, "{:.4f}"),
        of(lambda c: c.train_s, "{:.1f}"),
        of(lambda c: c.file_bytes / 2**20, "{:.3f}"),
    )
    titles = [("full", "full fine-tuning")]
    titles += [(f"{k}-b{ranks[-1]}", f"{title}, b{ranks[-1]}") for k, title in p.methods()]
    for kind, title in titles:
        lines.append(row(title, *(get(kind) for get in columns)))
    return lines


def score_table(p):
    shares = sorted({float(m[1]) for k in p.kinds if (m := re.fullmatch(r"score-\w+-d(.*)", k))})
    if not shares:
        return []
    titles = (f"{s:g} % of the weights" for s in shares)
    lines = head("score; static, 1x1, each matrix its share", *titles)
    for score in SCORES:
        name = "gradient (ABSD)" if score == "gradient" else score
        lines.append(row(name, *(p.loss(f"score-{score}-d{s:g}") for s in shares)))
    return lines


def block_table(p):
    if not any(k.startswith(("block-", "attention-")) for k in p.kinds):
        return []
    lines = head("block", "all linear layers", "tokens/s", "attention alone", "tokens/s")
    for block in (*BLOCKS, "128x128", "256x256"):
        words = [block]
        for part in ("block", "attention"):
            kind = f"{part}-{block}"
            if not divides(block, MODELS[p.model], part == "attention"):
                words += ["does not divide", ""]
                continue
            words += [p.loss(kind), p.of(kind, lambda c: c.tokens_per_s, "{:,.0f}")]
        lines.append(row(*words))
    return lines


RESELECTION = ("every", "replace", "keep", "dynamic-unseeded")


def reselect_table(p):
    part = lambda k: next((i for i, name in enumerate(RESELECTION) if k.startswith(name)), None)
    found = [k for k in p.kinds if part(k) is not None]
    if not found:
        return []
    static = [f"absd-b{r}" for r in p.ranks("absd") if same_budget(p, f"absd-b{r}", found[0])]
    order = sorted(found, key=lambda k: (part(k), -number(k)))
    lines = head(
        *(
            "",
            "steps between",
            "replaced at first, at most",
            "a dropped block",
            "moments of new blocks",
        ),
        *("replaced each time, %", "test loss", "minus that of static", "seeds"),
    )
    for kind in static + order:
        o = next(iter(p.best(kind).values())).options
        seeded = "select-every" in o and o.get("seed-moments") != "off"
        seeds = "by the window" if seeded else "0"
        knobs = [
            o.get("select-every", ""),
            o.get("replace", "0.2"),
            o.get("on-drop", "revert"),
            seeds,
        ]
        if "select-every" not in o:
            knobs = ["", "", "", seeds]
        lines.append(
            row(
                "dynamic" if "select-every" in o else "static",
                *knobs,
                p.of(kind, Done.replaced, "{:.1f}") if "select-every" in o else "",
                p.loss(kind),
                p.difference(kind, static[0]) if static and kind not in static else "",
                p.seeds(kind),
            )
        )
    return lines


def number(kind):
    found = re.search(r"-([\d.]+)$", kind)
    return float(found[1]) if found else 0


def same_budget(p, a, b):
    first = lambda kind: next(iter(p.best(kind).values())).options.get("budget")
    return first(a) == first(b)


def forgetting_table(p):
    base = p.base()
    kinds = [("full", "full fine-tuning")]
    kinds += [(f"{k}-b{r}", f"{t}, b{r}") for r in p.compared() for k, t in p.methods()]
    if base is None or len(kinds) < 2:
        return []
    lines = head("method", "test loss", "source loss", "source loss rises by", "seeds")
    lines.append(row("before", f"{base.test:.4f}", f"{base.source:.4f}", "", "1"))
    for kind, title in kinds:
        source = p.of(kind, lambda c: c.source)
        lines.append(row(title, p.loss(kind), source, p.rise(kind), p.seeds(kind)))
    return lines


MEMORY = (
    ("weights", ("frozen weights", "trained values", "working copies", "running statistics")),
    ("gradients", ("gradients",)),
    ("states", ("first moments", "second moments", "tables and step state")),
    ("activations", ("activations", "batch")),
)


def memory_table(p):
    lines = head("method", "recompute", *(name for name, _ in MEMORY), "total, GiB", numbers_from=2)
    names = {
        "full": "full fine-tuning",
        "lora-r16": "LoRA, rank 16",
        "sparse-r16": "ABSD, 32x32, as many values",
    }
    known = {key for _, keys in MEMORY for key in keys} | {"total"}
    order = lambda k: (not k.startswith("full"), not k.startswith("lora"), share_of(k))
    for kind in sorted(p.kinds, key=order):
        plan = next(iter(p.best(kind).values())).plan
        method, _, recompute = kind.rpartition("-recompute-")
        title = names.get(method, f"ABSD, 32x32, {method[7:]} %")
        parts = [sum(plan.get(key, 0) for key in keys) for _, keys in MEMORY]
        rest = sum(v for key, v in plan.items() if key not in known)
        parts[-1] += rest
        lines.append(row(title, recompute, *(f"{v:.3f}" for v in parts), f"{plan['total']:.3f}"))
    return lines


def share_of(kind):
    found = re.search(r"sparse-([\d.]+)", kind)
    return float(found[1]) if found else 0


STEP = (
    ("dX", r"linear_dx|lowrank_dx"),
    ("selection", r"block_score|score_merge|window_add"),
    ("dW", r"linear_dw|linear_db|block_dw|block_gather|embedding_dw"),
    ("optimiser", r"adamw|sgd|sparse_adamw|block_store|grad_norm"),
    ("rest of backward", r"\w+_bwd"),
    ("loss, both ways", r"linear_ce"),
    ("forward", r"\w+"),
)
STEP_ORDER = (
    *("forward", "loss, both ways", "dX", "dW", "rest of backward", "optimiser", "selection"),
)


def step_table(p):
    lines = head("trained", *STEP_ORDER, "sum, ms a step")
    order = lambda k: (k != "full", k != "lora-r16", int((re.findall(r"block-(\d+)", k) or [0])[0]), k)
    for kind in sorted(p.kinds, key=order):
        times = dict.fromkeys(STEP_ORDER, 0.0)
        for name, _, _, ms in next(iter(p.best(kind).values())).operations:
            part = next(part for part, names in STEP if re.fullmatch(names, name))
            if kind.endswith("-scores") and name == "linear_dw":
                part = "selection"  # blocks have block_dw
            times[part] += ms
        words = [f"{times[part]:.2f}" for part in STEP_ORDER]
        lines.append(row(step_title(kind), *words, f"{sum(times.values()):.2f}"))
    return lines


def step_title(kind):
    if kind == "full":
        return "full fine-tuning"
    if kind == "lora-r16":
        return "LoRA, rank 16"
    size, _, more = kind[6:].partition("-")
    text = f"blocks of {size}x{size}" if size != "1" else "elements"
    words = {"": "", "0.1%": ", 0.1 % of the weights", "scores": ", a step with scores"}
    return text + words.get(more, ", a step of a window")


PLACED = (
    ("T1", equal_table),
    ("T2", budget_table),
    ("T3", grid_table),
    ("T5", bench_table),
    ("T6", score_table),
    ("T7", block_table),
    ("T8", reselect_table),
    ("T9", forgetting_table),
)


def settings_line(p):
    """What all cells of a place have in common."""
    cells = [c for k in p.kinds.values() for s in k.values() for c in s.values()]
    words = []
    for key in ("batch-size", "seq-len", "dtype"):
        words.append(f"{key} {', '.join(sorted({c.options[key] for c in cells}))}")
    devices = ", ".join(sorted({c.device for c in cells}))
    return f"{'; '.join(words)}; {devices}."


def section(name, places):
    """All places of a table; [] if there is none."""
    lines = []
    for p in places.values():
        target = p.name.partition("/")[0]
        if name == "T4" and target == "memory":
            rows, plan = memory_table(p), next(iter(p.kinds.values()))[0][0]
            o = plan.options
            text = f"{p.model}, {o['batch-size']} x {o['seq-len']} tokens, {o['dtype']}"
            lines += [f"{text}; planned for: {plan.device}.", "", *rows, ""]
        elif name == "T10" and target == "step":
            o = next(iter(p.kinds.values()))[0][0].options
            lines += [f"{p.model}, {o['batch']} x {o['length']} tokens.", "", *step_table(p), ""]
        elif target in TARGETS and name in dict(PLACED):
            rows = dict(PLACED)[name](p)
            lines += [f"{p.name}: {settings_line(p)}", "", *rows, ""] if rows else []
    return lines


def names_of(places):
    kinds = (kind for p in places.values() for kind in p.kinds.values())
    return {c.name for kind in kinds for seeds in kind.values() for c in seeds.values()}


def tables(out, wanted):
    """Markdown; `wanted` are the names of the cells that were asked for."""
    places = read(out)
    there = names_of(places)
    lines = ["# Sparse fine-tuning: hone-sparse", "", *__doc__.split("\n\n", 1)[1].splitlines(), ""]
    for name, title in TITLES.items():
        lines += [f"## {name}: {title}", ""]
        lines += section(name, places) or ["Not run.", ""]
        lines += PUBLISHED.get(name, "").splitlines() + [""]
    missing = [name for name in wanted if name not in there]
    if missing:
        kinds = sorted({re.sub(r"(-lr[\de.-]+)?-s\d+$", "", name) for name in missing})
        lines += [f"{len(missing)} of {len(wanted)} cells are missing: {', '.join(kinds)}.", ""]
    return "\n".join(lines) + "\n"


# ---- pictures ----

STYLE = """
set encoding utf8
set border 3 lc rgb '#555555'
set tics nomirror scale 0.5
set grid lc rgb '#dddddd'
set ylabel 'test loss, nats a token'
set key below
"""
DENSITY = """
set logscale x
set xlabel 'trained values, % of the linear layers'
"""
COLOURS = {
    "lora": "#555555",
    "dora": "#1b9e77",
    "s2ft": "#8c6d31",
    "smt": "#756bb1",
    "spiel": "#e7298a",
    "lift": "#d94801",
    "absd": "#2171b5",
    "dynamic": "#238b45",
}


def point(p, kind, x):
    cells = list(p.best(kind).values())
    losses = [c.test for c in cells]
    return x(cells[0]), mean(losses), deviation(losses) if len(losses) > 1 else 0


def plot(series, to, title, style, more=()):
    """series: of (rows, title, colour); more: plots behind them."""
    text, plots = "", []
    for i, (rows, name, colour) in enumerate(series):
        body = "\n".join("\t".join(map(str, r)) for r in rows)
        text += f"$s{i} << EOD\n{body}\nEOD\n"
        plots.append(f"$s{i} using 1:2:3 with yerrorlines pt 7 lc rgb '{colour}' title '{name}'")
    text += f"set title {rank_map.quoted(title)} noenhanced\nplot {', '.join([*plots, *more])}\n"
    rank_map.draw(str(to), 800, 520, STYLE + style + text)


def over_density(p, to):
    series = []
    for kind, title in METHODS:
        ranks = p.ranks(kind)
        rows = [point(p, f"{kind}-b{r}", lambda c: 100 * p.density(c)) for r in ranks]
        series += [(rows, title, COLOURS[kind])] if rows else []
    full = p.best("full")
    more = []
    if full:
        level = mean([c.test for c in full.values()])
        more = [f"{level} with lines dashtype 2 lc rgb '#999999' title 'full fine-tuning'"]
    if series:
        plot(series, to, p.name, DENSITY, more)


def over_block(p, to):
    series = []
    for part, title in (("block", "all linear layers"), ("attention", "attention alone")):
        kinds = [(i, f"{part}-{b}") for i, b in enumerate(BLOCKS) if f"{part}-{b}" in p.kinds]
        rows = [point(p, kind, lambda c, i=i: i) for i, kind in kinds]
        colour = COLOURS["absd" if part == "block" else "dynamic"]
        series += [(rows, title, colour)] if rows else []
    tics = ", ".join(f"'{block}' {i}" for i, block in enumerate(BLOCKS))
    style = f"set xlabel 'block'\nset xtics ({tics})\nset xrange [-0.3:{len(BLOCKS) - 0.7}]\n"
    if series:
        plot(series, to, p.name, style)


def pictures(out):
    if shutil.which("gnuplot") is None:
        print("no gnuplot: no pictures; --tables-only draws them elsewhere", file=sys.stderr)
        return
    for place, p in read(out).items():
        if place.partition("/")[0] in TARGETS:
            name = place.replace("/", "-")
            over_density(p, pathlib.Path(out) / f"density-{name}")
            over_block(p, pathlib.Path(out) / f"block-{name}")
