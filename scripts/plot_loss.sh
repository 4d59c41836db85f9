#!/usr/bin/env bash
# Draws the loss of a run (training and held out), and the accuracy of images, from its metrics.csv,
# with gnuplot.
#   scripts/plot_loss.sh RUN_FOLDER [OUT]
# writes OUT.png and OUT.svg; OUT is RUN_FOLDER/loss where it is not given.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
fi
metrics=$1/metrics.csv
out=${2:-$1/loss}
if [ ! -r "$metrics" ]; then
    echo "plot_loss.sh: $metrics cannot be read: is $1 the folder of a run?" >&2
    exit 2
fi
if ! command -v gnuplot >/dev/null; then
    echo "plot_loss.sh: gnuplot is missing; scripts/install_deps.sh --plot installs it" >&2
    exit 2
fi

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
# column NAME: step and value of the rows that have one.
column() {
    awk -F, -v name="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) col = i }
        NR > 1 && col && $col != "" { print $1, $col }' "$metrics"
}
column loss >"$temp/train"
column eval_loss >"$temp/held_out"
column eval_accuracy >"$temp/accuracy"
unit=token accuracy='' # a second axis
if [ ! -s "$temp/train" ]; then
    echo "plot_loss.sh: $metrics has no step yet" >&2
    exit 2
fi
series="'$temp/train' with lines lw 1.5 lc rgb '#7aa6d8' title 'training, each step'"
if [ -s "$temp/held_out" ]; then
    series+=", '$temp/held_out' with linespoints lw 2.5 pt 7 ps 0.9 lc rgb '#c0392b' title 'held out'"
fi

if [ -s "$temp/accuracy" ]; then
    unit=image
    accuracy="set y2label 'held-out accuracy (%)'; set y2tics nomirror; set y2range [0:100]"
    accuracy+="; set border 11"
    series+=", '$temp/accuracy' using 1:(100*\$2) axes x1y2 with linespoints lw 2 pt 5 ps 0.8 lc rgb '#2e8b57' title 'held-out accuracy'"
fi

draw() { # TERMINAL FILE
    gnuplot <<G
set terminal $1
set output '$2'
set xlabel 'optimizer step'
set ylabel 'cross-entropy (nats per $unit)'
set grid lc rgb '#dddddd' lt 1 lw 1
set border 3 lc rgb '#555555'
set tics nomirror
set key top right
$accuracy
set xrange [0:*] noextend
set offsets 0, 0, graph 0.03, graph 0.03
plot $series
G
}
draw "pngcairo size 900,540 font 'sans,13' background rgb 'white'" "$out.png"
draw "svg size 900,540 font 'sans-serif,15' background rgb 'white'" "$out.svg"
