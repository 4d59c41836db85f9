#!/usr/bin/env bash
# The tables of few-shot adaptation: hone-hyperflow beside fine-tuning, in and out of the domains of
# training, and what each costs. hyperflow_run.py says how, and its options.
#   scripts/tables/hyperflow.sh --smoke                   # everything in small, minutes on 2 cores
#   scripts/tables/hyperflow.sh                           # the main tables: a GPU, an hour
#   scripts/tables/hyperflow.sh --full --shard 1/3        # and what was tried; a third of the runs
#   scripts/tables/hyperflow.sh --meta-dataset DIR --cdfsl DIR   # the paper's layout
#   scripts/tables/hyperflow.sh --tables-only --out DIR   # tables and pictures of what is there
set -euo pipefail
exec python3 "$(dirname "$0")/hyperflow_run.py" "$@"
