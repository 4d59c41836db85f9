#!/usr/bin/env bash
# Builds hone for the GPU and runs its benchmarks:
#   scripts/bench.sh [--build DIR] [--no-build] [hone-bench options]   kernels: bench/results/kernels.jsonl
#   scripts/bench.sh --step 1b|8b [options of bench/step.py]           LoRA steps of a decoder beside the peers
#   scripts/bench.sh --vision [options of bench/vision.py]             steps of image classifiers beside the peers
# --build: build-cuda. With --compare OLD.jsonl it ends with 1 when something has become slower.
set -euo pipefail
cd "$(dirname "$0")/.."

build="build-cuda"
make=yes
step=""
vision=no
rest=()
while [ $# -gt 0 ]; do
    case $1 in
    --build)
        build=${2:?--build needs a folder}
        shift
        ;;
    --no-build) make=no ;;
    --step)
        step=${2:?--step needs a shape: 1b or 8b}
        shift
        ;;
    --vision) vision=yes ;;
    -h | --help)
        sed -n '2,6s/^# //p' "$0"
        exit 0
        ;;
    *) rest+=("$1") ;;
    esac
    shift
done
if [ $make = yes ]; then
    if [ ! -e "$build/CMakeCache.txt" ]; then
        cmake -S . -B "$build" -G Ninja -DHONE_CUDA=ON
    fi
    cmake --build "$build" --parallel "$(nproc)" \
        --target hone-bench hone-bench-step hone-bench-vision hone-bench-clients
fi
if [ -n "$step" ]; then
    exec python3 bench/step.py --shape "$step" --build "$build" ${rest[@]+"${rest[@]}"}
fi
if [ $vision = yes ]; then
    exec python3 bench/vision.py --build "$build" ${rest[@]+"${rest[@]}"}
fi
mkdir -p bench/results
# An --out among the options comes later and wins.
exec "$build/hone-bench" --out bench/results/kernels.jsonl ${rest[@]+"${rest[@]}"}
