#!/usr/bin/env bash
# The tables of sparse fine-tuning (T1 to T10): hone-sparse and its presets beside LoRA and full
# fine-tuning at equal trained values, on small real models. sparse_run.py says how.
#   scripts/tables/sparse.sh --smoke                      # all tables, minutes on 2 cores
#   scripts/tables/sparse.sh --jobs 8 --shard 1/3         # a third of the cells
#   scripts/tables/sparse.sh --only '^(memory|step)/'     # T4 and T10 alone
#   scripts/tables/sparse.sh --tables-only --out DIR      # tables and pictures of what is there
set -euo pipefail
exec python3 "$(dirname "$0")/sparse_run.py" "$@"
