"""Tables of the cells that hyperflow_run.py has made. Every figure is read from a cell's JSON; what
has not been run is "-". Needs no more than Python.

Accuracies are in percent, mean over the test episodes and +- 1.96 standard deviations of that mean;
of several seeds the episodes are pooled. Differences are to direct transfer on the same episodes
(paired), with their own interval; a mean over domains weighs them alike. Learning rates and stop
times were chosen on validation episodes, no adaptation (rate or time 0) being among what was tried:
those of a method on each domain, those of hyperflow-global on the domains of training alone.
"""

import json
import math
import pathlib

from cells import head, row
from hyperflow_cells import CDFSL, METHODS, OTHERS, SHOTS, SOURCES
from hyperflow_published import PMF_CDFSL_NOTE, PMF_META, PUBLISHED_NOTE

NAMES = {
    "direct": "direct transfer",
    "head": "head-tuning",
    "bias": "bias-tuning",
    "ln": "LN-tuning",
    "lora": "LoRA",
    "full": "full fine-tuning",
    "hyperflow": "hyperflow, stop time by domain",
    "hyperflow-global": "hyperflow, one stop time",
}


# ---- cells ----


def stats(values):
    """Mean and half of the interval, both in percent."""
    n, m = len(values), sum(values) / len(values)
    sd = math.sqrt(sum((v - m) ** 2 for v in values) / n)
    return 100 * m, 196 * sd / math.sqrt(n)


class Setting:
    """Of all seeds: {label: {domain: [cell, ..]}}, one cell a seed."""

    def __init__(self, name):
        self.name, self.methods, self.in_domain = name, {}, {}
        self.stages, self.cost, self.descents, self.seconds = {}, None, [], {}

    def add(self, kept):
        stage = kept["asked"]["name"].split("/")[1]
        if stage == "cost":
            self.cost = kept
        if stage in ("generate", "train"):
            self.stages[kept["asked"]["name"].split("/")[2]] = kept
        if kept.get("descent"):
            self.descents.append(kept["descent"])
        for cell in kept.get("cells", []):
            of = self.methods.setdefault(cell["method"], {})
            of.setdefault(cell["domain"], []).append(cell)
            self.in_domain[cell["domain"]] = cell["in_domain"]

    def domains(self, inside):
        return [d for d, v in self.in_domain.items() if v == inside]

    def labels(self):
        rank = {m: i for i, m in enumerate((*METHODS, "hyperflow", "hyperflow-global"))}
        return sorted(self.methods, key=lambda m: (rank.get(m, len(rank)), m))

    def accuracies(self, label, domain):
        return [v for c in self.methods.get(label, {}).get(domain, []) for v in c["accuracy"]]

    def text(self, label, domain):
        values = self.accuracies(label, domain)
        return "{:.2f} +- {:.2f}".format(*stats(values)) if values else "-"

    def paired(self, label, domain):
        """Differences to direct transfer, where both have the same episodes."""
        ours, theirs = (self.methods.get(m, {}).get(domain, []) for m in (label, "direct"))
        by_seed = {c["sampler_digest"]: c["accuracy"] for c in theirs}
        found = []
        for c in ours:
            other = by_seed.get(c["sampler_digest"], [])
            if len(other) == len(c["accuracy"]):
                found += [a - b for a, b in zip(c["accuracy"], other)]
        return found

    def gain(self, label, domain):
        found = self.paired(label, domain)
        return "{:+.2f} +- {:.2f}".format(*stats(found)) if found else "-"

    def over(self, label, inside):
        """(mean difference, half interval) over the domains that have one; None: none has."""
        parts = [stats(p) for d in self.domains(inside) if (p := self.paired(label, d))]
        if not parts:
            return None
        n = len(parts)
        return sum(m for m, _ in parts) / n, math.sqrt(sum(h * h for _, h in parts)) / n, n

    def chosen(self, label, domain):
        found = self.methods.get(label, {}).get(domain, [])
        values = [c.get("lr", c.get("stop")) for c in found]
        return ", ".join("-" if v is None else f"{v:g}" for v in values) or "-"


def settings_of(out):
    found = {}
    for path in sorted(pathlib.Path(out).glob("*/*/*.json")):
        if path.parts[-2] not in ("generate", "cost", "base", "train", "flow"):
            continue
        kept = json.loads(path.read_text())
        found.setdefault(path.parts[-3], Setting(path.parts[-3])).add(kept)
    return found


# ---- tables ----


def name_of(label):
    return NAMES.get(label, label)


def accuracy_table(s, inside):
    domains = s.domains(inside)
    if not domains:
        return []
    lines = head("", *domains)
    lines += [row(name_of(m), *(s.text(m, d) for d in domains)) for m in s.labels()]
    lines += ["", "Difference to direct transfer, paired:", ""]
    lines += head("", *domains, "mean over these")
    for m in s.labels():
        if m == "direct":
            continue
        mean = s.over(m, inside)
        text = "{:+.2f} +- {:.2f}".format(*mean[:2]) if mean else "-"
        lines.append(row(name_of(m), *(s.gain(m, d) for d in domains), text))
    return lines + [""]


def choice_table(s):
    domains = s.domains(True) + s.domains(False)
    lines = ["Chosen on validation episodes (learning rate; stop time):", ""]
    lines += head("", *domains)
    for m in s.labels():
        if m != "direct":
            lines.append(row(name_of(m), *(s.chosen(m, d) for d in domains)))
    return lines + [""]


def descent_table(s):
    if not s.descents:
        return []
    lines = ["Support loss of training tasks: from the backbone to the least along integration, and",
             "to the end of bias-tuning (share 80 % and above: acceptance 1):", ""]
    lines += head("", "tasks", "before", "tuning's drop", "integration's drop", "share")
    for d in s.descents:
        lines.append(
            row(d["method"], str(d["episodes"]), f"{d['losses'][0]:.4f}", f"{d['tuning_drop']:.4f}",
                f"{d['drop']:.4f}", f"{100 * d['share']:.1f} %")
        )
    return lines + [""]


ACCEPTANCE = (
    "1. support loss of training tasks falls within 20 % of tuning's fall",
    "2. in the domains of training not below direct transfer, lowest domain",
    "3. out of them above direct transfer, mean over domains",
    "4. memory and operations of an episode are measured, as shares of full fine-tuning",
)


def lowest(s, label):
    """(end of the interval, domain, mean, half interval) of the domain of training where the paired
    difference's interval ends lowest; None: none has one."""
    found = [(d, *stats(p)) for d in s.domains(True) if (p := s.paired(label, d))]
    return min(((m + h, d, m, h) for d, m, h in found), default=None)


def dearest(s, label):
    """The cost of the domain where adaptation takes the largest share of fine-tuning's memory."""
    costs = [c["cost"] for cells in s.methods[label].values() for c in cells if "cost" in c]
    return max(costs, key=lambda c: c["adapt_bytes"] / c["full_bytes"], default=None)


def acceptance_rows(s):
    """(number, method, what was measured, whether it holds or None)."""
    for d in s.descents:
        share = 100 * d["share"]
        text = f"{share:.1f} % of it, {d['episodes']} tasks"
        yield 0, d["method"], text, share >= 80 if d["tuning_drop"] > 0 else None
    for m in (m for m in s.labels() if m.startswith("hyperflow")):
        if low := lowest(s, m):
            yield 1, m, "{}: {:+.2f} +- {:.2f}".format(*low[1:]), low[0] >= 0
        if mean := s.over(m, False):
            yield 2, m, "{:+.2f} +- {:.2f} over {}".format(*mean), mean[0] - mean[1] > 0
        if cost := dearest(s, m):
            parts = [100 * cost[f"adapt_{k}"] / cost[f"full_{k}"] for k in ("bytes", "flops")]
            yield 3, m, "memory {:.2f} %, operations {:.4f} %".format(*parts), True


def acceptance_table(s):
    """What hyperflow_acceptance.c says of one run, over all seeds."""
    found = sorted(acceptance_rows(s), key=lambda r: r[0])
    absent = [(i, "-", "not measured", None) for i in range(4) if i not in {r[0] for r in found}]
    lines = ["### Acceptance", "", *head("expected", "method", "measured", "holds", numbers_from=4)]
    for i, method, text, holds in sorted(found + absent, key=lambda r: r[0]):
        verdict = "?" if holds is None else "yes" if holds else "no"
        lines.append(row(ACCEPTANCE[i], method, text, verdict))
    return lines + [""]


def number(value, form):
    return "-" if value is None else form.format(value)


def cost_table(s):
    c = s.cost or {}
    get = lambda key: c.get(key)
    share = lambda a, b: None if not get(a) or not get(b) else 100 * get(a) / get(b)
    made = sorted(k for k in s.stages if k.startswith("trajectories-s"))
    generate = s.stages[made[0]] if made else {}
    lines = ["Cost of an episode (bytes of the plans, which are all that the engines take, and counted",
             f"operations; device: {get('device') or 'not known'}):", ""]
    lines += head("", "adaptation", "full fine-tuning", "share")
    lines.append(row("memory, MiB", number(get("adapt_mib"), "{:.1f}"),
                     number(get("full_mib"), "{:.1f}"),
                     number(share("adapt_mib", "full_mib"), "{:.2f} %")))
    flops = (get("encoder_gflop") or 0) + (get("drift_gflop") or 0) or None
    part = 100 * flops / get("full_gflop") if flops and get("full_gflop") else None
    lines.append(row("GFLOP", number(flops, "{:.3f}"), number(get("full_gflop"), "{:.1f}"),
                     number(part, "{:.4f} %")))
    lines.append(row("time of one episode with its queries, ms", number(get("adapt_ms"), "{:.1f}"),
                     seconds_of(s, "full"), ""))
    lines += ["", "Offline:", ""] + head("", "")
    lines.append(row("trajectories, s", number(generate.get("stage_seconds"), "{:.0f}")))
    lines.append(row("trajectories, GiB", number(generate.get("bytes") and generate["bytes"] / 2**30, "{:.3f}")))
    for name, kept in s.stages.items():
        if not name.startswith("trajectories"):
            lines.append(row(f"network {name}, s", number(kept.get("stage_seconds"), "{:.0f}")))
    return lines + [""]


def seconds_of(s, label):
    """Milliseconds of an episode where many are tuned at once."""
    found = [c for cells in s.methods.get(label, {}).values() for c in cells]
    moved = [c for c in found if c.get("lr")]
    if not moved:
        return "-"
    return "{:.1f} (many at once)".format(1e3 * sum(c["seconds"] / c["episodes"] for c in moved) / len(moved))


def setting_text(s):
    note = split_note(s)
    lines = [f"## {s.name}", "", *([note, ""] if note else []), "### In the domains of training", ""]
    lines += accuracy_table(s, True)
    lines += ["### Out of them", ""] + accuracy_table(s, False)
    lines += descent_table(s) + acceptance_table(s) + choice_table(s) + cost_table(s)
    return "\n".join(lines)


# ---- the paper's layout ----


def paper_rows(s, domains, cells):
    lines = head("", *domains)
    for m in (*METHODS, "hyperflow", "hyperflow-global"):
        lines.append(row(name_of(m), *(s.text(m, d) if s else "-" for d in cells)))
    lines.append(row("HyperFlow (published)", *("" for _ in domains)))
    return lines


BY_SHARES = (
    "Classes were split by the seed in shares of 64 / 16 / 20, not by the lists that the published"
    " figures are of: other classes are trained on and tested."
)
BY_LISTS = "Classes were split by lists (--meta-splits)."


def asked_of(s):
    """The options that the trajectories of a run were made with."""
    stage = next((k for n, k in s.stages.items() if n.startswith("trajectories")), {}) if s else {}
    return stage.get("asked", {}).get("options", {})


def split_note(s):
    """How the classes of a run of those data sets were split; "": it has none of them."""
    asked = asked_of(s)
    if not any(f"{n}=" in str(asked.get("train-domains", "")) for n in SOURCES):
        return ""
    return BY_LISTS if asked.get("splits") else BY_SHARES


def cap_note(s):
    """Of Meta-Dataset's episodes, whose shots follow the classes' sizes; "": all images were used."""
    asked = asked_of(s)
    most = int(asked.get("class-images", 500))
    if not asked or most == 0:
        return ""
    return f"Of every class the first {most} images were used, and shots were drawn by these numbers."


def meta_table(settings):
    domains = (*SOURCES, *OTHERS)
    cells = (*(f"{n}-test" for n in SOURCES), *OTHERS)
    s = settings.get("meta-dataset")
    lines = ["## Meta-Dataset, the layout of the paper's Table 1", ""]
    lines += paper_rows(s, domains, cells)
    lines.append(row("P>M>F, full fine-tuning, DINO ViT-S, 8 sources (published)", *PMF_META))
    return "\n".join([*lines, "", PUBLISHED_NOTE, "", split_note(s), cap_note(s), ""])


def cdfsl_table(settings):
    lines = ["## CDFSL, the layout of the paper's Table 2", ""]
    domains = [f"{n} {k}-shot" for n in CDFSL for k in SHOTS]
    lines += head("", *domains)
    for m in (*METHODS, "hyperflow", "hyperflow-global"):
        texts = []
        for n in CDFSL:
            for k in SHOTS:
                s = settings.get(f"cdfsl-{k}")
                texts.append(s.text(m, n) if s else "-")
        lines.append(row(name_of(m), *texts))
    lines.append(row("HyperFlow (published)", *("" for _ in domains)))
    return "\n".join([*lines, "", PMF_CDFSL_NOTE, ""])


def tables(out):
    settings = settings_of(out)
    papers = [n for n in settings if n.startswith("cdfsl-") or n == "meta-dataset"]
    parts = ["# Few-shot adaptation", "", __doc__.split("\n\n", 1)[1]]
    parts += [setting_text(s) for n, s in settings.items() if n not in papers]
    if "meta-dataset" in settings:
        parts.append(meta_table(settings))
    if any(n.startswith("cdfsl-") for n in settings):
        parts.append(cdfsl_table(settings))
    parts += [setting_text(settings[n]) for n in papers]
    return "\n".join(parts)
