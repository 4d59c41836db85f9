"""Heat map of ranks, layers x tasks, drawn with gnuplot: OUT.svg and OUT.png.

    python3 scripts/tables/rank_map.py RANKS.csv OUT [TITLE]

RANKS.csv as hone-pearl writes it (runtime/train/rank_table.h): of its columns task, layer, rank and
dense (may be missing) are read. Layers stand in the order of the file, the first at the top, tasks
from left to right. The number in a cell is the rank, "d" behind it a layer that is kept dense; a
cell without a row stays white. Needs no more than Python and gnuplot.
"""

import csv
import pathlib
import subprocess
import sys

STYLE = """
set encoding utf8
set border 3 lc rgb '#555555'
set tics nomirror scale 0
set xlabel 'task'
set cblabel 'rank'
set cbtics scale 0.5
set palette defined (0 '#f7fbff', 0.25 '#c6dbef', 0.5 '#6baed6', 0.75 '#2171b5', 1 '#08306b')
set datafile separator '\\t'
unset key
"""


def read(path):
    """Tasks and layers in their order, and {(task, layer): (rank, dense)}."""
    cells, layers = {}, []
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        if not {"task", "layer", "rank"} <= set(rows.fieldnames or ()):
            sys.exit(f"rank_map.py: {path} has no columns task, layer, rank")
        for row in rows:
            where = f"rank_map.py: {path}, line {rows.line_num}"
            try:
                task, rank, dense = int(row["task"]), int(row["rank"]), int(row.get("dense") or 0)
            except (TypeError, ValueError):
                sys.exit(f"{where}: task, rank and dense are whole numbers")
            key = task, row["layer"]
            if key in cells:
                sys.exit(f"{where}: a second rank of {row['layer']} for task {task}")
            if row["layer"] not in layers:
                layers.append(row["layer"])
            cells[key] = rank, dense != 0
    if not cells:
        sys.exit(f"rank_map.py: {path} has no rows")
    return sorted({task for task, _ in cells}), layers, cells


def quoted(text):
    """A string of gnuplot; 'noenhanced' keeps it from reading _ as a subscript."""
    return "'" + text.replace("'", "''") + "'"


def script(tasks, layers, cells, title):
    most = max(rank for rank, _ in cells.values()) or 1
    lines = []
    for (task, layer), (rank, dense) in cells.items():
        colour = "0xffffff" if rank > 0.55 * most else "0x222222"
        label = f"{rank} d" if dense else str(rank)
        lines.append(f"{tasks.index(task)}\t{layers.index(layer)}\t{rank}\t{label}\t{colour}")
    xtics = ", ".join(f"'{task}' {i}" for i, task in enumerate(tasks))
    ytics = ", ".join(f"{quoted(layer)} {i}" for i, layer in enumerate(layers))
    box = "using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3"
    head = f"set title {quoted(title)} noenhanced\n" if title else ""
    return (
        "$cells << EOD\n" + "\n".join(lines) + "\nEOD\n" + head + f"set xtics ({xtics})\n"
        f"set ytics ({ytics}) noenhanced\n"
        f"set xrange [-0.5:{len(tasks) - 0.5}]\nset yrange [{len(layers) - 0.5}:-0.5]\n"
        f"set cbrange [0:{most}]\nset style fill solid 1 border lc rgb 'white'\n"
        f"plot $cells {box} with boxxyerror lc palette, "
        "'' using 1:2:4:5 with labels tc rgb variable\n"
    )


def draw(out, width, height, text):
    terminals = {
        "png": f"pngcairo size {width},{height} font 'sans,11' background rgb 'white'",
        "svg": f"svg size {width},{height} font 'sans-serif,13' background rgb 'white'",
    }
    for ending, terminal in terminals.items():
        head = f"set terminal {terminal}\nset output {quoted(f'{out}.{ending}')}\n"
        try:
            subprocess.run(["gnuplot"], input=head + STYLE + text, text=True, check=True)
        except FileNotFoundError:
            sys.exit("rank_map.py: gnuplot is missing; scripts/install_deps.sh --plot installs it")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    path = pathlib.Path(sys.argv[1])
    if not path.is_file():
        sys.exit(f"rank_map.py: there is no file {path}")
    tasks, layers, cells = read(path)
    names = 8 * max(len(layer) for layer in layers)
    width, height = names + 160 + 62 * len(tasks), 110 + 24 * len(layers)
    draw(sys.argv[2], width, height, script(tasks, layers, cells, (sys.argv[3:] or [""])[0]))


if __name__ == "__main__":
    main()
