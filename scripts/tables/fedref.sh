#!/usr/bin/env bash
# The tables of federated training: hone-fedref's methods on images that are parted among clients,
# payloads, robustness, times. fedref_run.py says how, and its options.
#   scripts/tables/fedref.sh --smoke                      # all kinds of tables, minutes on 2 cores
#   scripts/tables/fedref.sh --jobs 8 --shard 1/3         # a third of the cells
#   scripts/tables/fedref.sh --list --full                # the cells, and the files that they read
#   scripts/tables/fedref.sh --tables-only --out DIR      # tables and pictures of what is there
set -euo pipefail
exec python3 "$(dirname "$0")/fedref_run.py" "$@"
