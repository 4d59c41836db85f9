"""Pictures of the results, drawn with gnuplot: OUT.svg and OUT.png.

    python3 bench/plot.py steps  OUT bench/results/step-1b.jsonl bench/results/step-8b.jsonl
    python3 bench/plot.py vision OUT bench/results/vision-resnet18-512.jsonl [...]
    python3 bench/plot.py losses OUT bench/results/bf16-spread-h200.json [...]

steps: tokens/s and peak memory of hone and its peers, a row of two panels for each file of
bench/step.py. vision: images/s, as multiples of the fastest of the peers that are not captured by
hand, two files of bench/vision.py in a row. losses: the training losses of hone and PyTorch for each order of the data (at most
three), and below the difference of hone and PyTorch on the same batches beside that of two orders in
PyTorch, a column for each file of bench/peer_bf16_spread.py. Needs no more than Python and gnuplot.
"""

import json
import pathlib
import subprocess
import sys

import vision
from step import label, title

HONE, FAST, PEER = "#c0392b", "#e08e79", "#7aa6d8"
GRAY = "#c8c8c8"
COLOURS = ["#c0392b", "#2e75b6", "#3c8d40"]
SMOOTH = 10  # steps of the moving average
STYLE = """
set border 3 lc rgb '#555555'
set tics nomirror
set grid ytics lc rgb '#dddddd' lt 1 lw 1
"""
BARS = """
set multiplot
set style fill solid 1 noborder
set border 2
set ytics scale 0
unset grid
unset xtics
"""


def draw(out, width, height, script):
    terminals = {
        "png": f"pngcairo size {width},{height} font 'sans,12' background rgb 'white'",
        "svg": f"svg size {width},{height} font 'sans-serif,14' background rgb 'white'",
    }
    for ending, terminal in terminals.items():
        head = f"set terminal {terminal}\nset output '{out}.{ending}'\n"
        subprocess.run(["gnuplot"], input=head + STYLE + script, text=True, check=True)


def block(name, rows):
    """A gnuplot data block."""
    lines = "\n".join(" ".join(str(v) for v in row) for row in rows)
    return f"${name} << EOD\n{lines}\nEOD\n"


# ---- steps ----


def bars(name, entries):
    """One panel: a bar for each (value, variant, label, text), the first at the top, the text beside
    it."""
    rows = []
    for place, (value, variant, called, text) in enumerate(entries):
        colour = {"hone": HONE, "hone-fast": FAST}.get(variant, PEER).replace("#", "0x")
        rows.append((value, -place, colour, f'"{called}"', f'" {text}"'))
    return block(name, rows) + (
        f"plot ${name} using ($1/2):2:(0):1:($2-0.36):($2+0.36):3:ytic(4) "
        "with boxxyerror lc rgb variable notitle, "
        f"${name} using 1:2:5 with labels left notitle\n"
    )


def steps(out, files):
    parts = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    parts = [[r for r in results if "error" not in r] for results in parts]
    heights = [27 * len(results) + 70 for results in parts]
    script, top = BARS, sum(heights)
    for number, (results, height) in enumerate(zip(parts, heights)):
        low, high = (top - height + 12) / sum(heights), (top - 40) / sum(heights)
        top -= height
        script += f"set yrange [{0.6 - len(results)}:0.6]\n"
        panels = (("tokens/s", "tokens_per_s", ",.0f"), ("peak memory, GiB", "peak_gib", ".1f"))
        for column, (what, key, form) in enumerate(panels):
            most = max(r[key] for r in results)
            script += f"set lmargin at screen {0.25 + 0.4 * column}\n"
            script += f"set rmargin at screen {0.59 + 0.4 * column}\n"
            script += f"set bmargin at screen {low}\nset tmargin at screen {high}\n"
            script += f"set xrange [0:{1.25 * most or 1}]\n"
            entries = [(r[key], r["variant"], label(r), f"{r[key]:{form}}") for r in results]
            panel = bars(f"panel{number}{column}", entries)
            if column == 0:
                script += f"set title '{title(results[0])}: {what}'\nset format y '%s'\n{panel}"
            else:  # the variants' names stand in front of the first column
                script += f"set title '{what}'\nset format y ''\n{panel.replace(':ytic(4)', '')}"
    draw(out, 960, sum(heights), script + "unset multiplot\n")


# ---- image classifiers ----


def vision_steps(out, files):
    script, width, height = BARS, 620, 235
    rows = (len(files) + 1) // 2
    for number, file in enumerate(files):
        results = vision.good_of([json.loads(line) for line in file.read_text().splitlines()])
        best = vision.fastest(results, vision.COMMON)
        if best is None:
            sys.exit(f"{file}: no peer to compare with")
        entries = []
        for r in results:
            times, name = r["images_per_s"] / best["images_per_s"], vision.label(r)
            entries.append((times, r["variant"], name, f"{times:.2f}  ({r['images_per_s']:,.0f}/s)"))
        left, top = number % 2 / 2, 1 - number // 2 / rows
        script += f"set lmargin at screen {left + 0.17}\nset rmargin at screen {left + 0.49}\n"
        script += f"set tmargin at screen {top - 0.16 / rows}\n"
        script += f"set bmargin at screen {top - 0.96 / rows}\n"
        script += f"set xrange [0:{1.45 * max(e[0] for e in entries)}]\n"
        script += f"set yrange [{0.4 - len(entries)}:0.6]\n"
        script += f"set title '{vision.SHAPES[results[0]['shape']].title}: images/s'\n"
        script += bars(f"panel{number}", entries)
    draw(out, 2 * width, rows * height, script + "unset multiplot\n")


# ---- losses ----


def smooth(losses):
    n = min(SMOOTH, len(losses))
    return [sum(losses[i - n : i]) / n for i in range(n, len(losses) + 1)]


def line(name, what, width, colour, called):
    called = f"title '{called}'" if called else "notitle"
    return f"${name} using 1:{what} with lines lw {width} lc rgb '{colour}' {called}"


def curves(name, runs):
    """The data block of one file, and what its two panels plot."""
    seeds = list(runs["torch"])[:3]
    torch, hone = ([smooth(runs[who][s]["loss"]) for s in seeds] for who in ("torch", "hone"))
    first = len(runs["torch"][seeds[0]]["loss"]) - len(torch[0]) + 1
    rows = zip(range(first, first + len(torch[0])), *torch, *hone)
    loss, gap = [], []
    for i, (seed, colour) in enumerate(zip(seeds, COLOURS)):
        of_torch, of_hone = f"${i + 2}", f"${i + 2 + len(seeds)}"
        loss.append(line(name, f"({of_torch})", 4, GRAY, "" if i else "PyTorch"))
        loss.append(line(name, f"({of_hone})", 1.3, colour, f"hone, order {seed}"))
        if i > 0:  # beneath the others
            called = "" if i > 1 else f"PyTorch, another order - order {seeds[0]}"
            gap.insert(0, line(name, f"({of_torch}-$2)", 2.5, GRAY, called))
        called = f"hone - PyTorch, both order {seed}"
        gap.append(line(name, f"({of_hone}-{of_torch})", 1.5, colour, called))
    return block(name, rows), loss, gap


def losses(out, files):
    script = f"set multiplot layout 2,{len(files)} columnsfirst\nset xlabel 'optimizer step'\n"
    script += "set key top right reverse Left samplen 2\nset xrange [0:*] noextend\n"
    for number, file in enumerate(files):
        result = json.loads(file.read_text())
        data, loss, gap = curves(f"loss{number}", result)
        what = {
            "babyllama": "babyllama-char105, tiny Shakespeare",
            "1b": "Llama-3.2-1B, WikiText-2",
        }
        task = result.get("task", "babyllama")
        script += data + f"set title '{what.get(task, task)}, {result['dtype']}'\n"
        script += f"set ylabel 'training loss, mean of {SMOOTH} steps'\nset autoscale y\n"
        script += "set offsets 0, 0, graph 0.05, graph 0.02\nplot " + ", ".join(loss) + "\n"
        script += "set title\nset ylabel 'difference'\n"
        script += "set offsets 0, 0, graph 0.35, graph 0.05\nplot " + ", ".join(gap) + "\n"
    draw(out, 620 * len(files), 760, script + "unset multiplot\n")


def main():
    kinds = {"steps": steps, "vision": vision_steps, "losses": losses}
    if len(sys.argv) < 4 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    kinds[sys.argv[1]](sys.argv[2], [pathlib.Path(name) for name in sys.argv[3:]])


if __name__ == "__main__":
    main()
