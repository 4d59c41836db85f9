#!/usr/bin/env bash
# The tables of continual learning: hone-pearl beside fixed ranks and the usual baselines, on
# streams of CIFAR-100, CIFAR-10, MNIST and Fashion-MNIST. pearl_run.py says how, and its options.
#   scripts/tables/pearl.sh --smoke                       # all kinds of tables, minutes on 2 cores
#   scripts/tables/pearl.sh --jobs 8 --shard 1/3          # a third of the cells
#   scripts/tables/pearl.sh --list --full                 # the cells, and the files that they read
#   scripts/tables/pearl.sh --tables-only --out DIR       # tables and pictures of what is there
set -euo pipefail
exec python3 "$(dirname "$0")/pearl_run.py" "$@"
