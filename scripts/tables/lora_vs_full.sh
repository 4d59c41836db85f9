#!/usr/bin/env bash
# LoRA (rank 16, all linear layers) beside full fine-tuning: babyllama-char105 on tiny Shakespeare,
# one epoch of 8 x 256 tokens a step, the last 10 % held out.
#   scripts/tables/lora_vs_full.sh [--smoke] [--seeds "0 1 2"] [--lora-lr "1e-3 3e-3"]
#                                  [--full-lr "5e-4 1e-3"] [--out DIR]
# Prints a Markdown table: held-out loss (nats a character) before and after, mean and s.d. over the
# seeds. A cell that has been run is not run again. --smoke: 20 steps a cell.
set -euo pipefail
cd "$(dirname "$0")/../.."

data=${HONE_DATA:-../shared/data}
out=runs/lora_vs_full
seeds="0 1 2" lora_lr="1e-3 3e-3 1e-2" full_lr="5e-4 1e-3 3e-3" length="--epochs 1"
while [ $# -gt 0 ]; do
    case $1 in
    --smoke) length="--steps 20" seeds=0 lora_lr=3e-3 full_lr=1e-3 out=runs/lora_vs_full_smoke ;;
    --seeds) seeds=$2 && shift ;;
    --lora-lr) lora_lr=$2 && shift ;;
    --full-lr) full_lr=$2 && shift ;;
    --out) out=$2 && shift ;;
    *) echo "lora_vs_full.sh: unknown option $1" >&2 && exit 2 ;;
    esac
    shift
done
[ -d "$data/babyllama-char105" ] || {
    echo "lora_vs_full.sh: no $data/babyllama-char105; set HONE_DATA" >&2
    exit 2
}

# cell METHOD LR SEED: trains unless it was done, prints the held-out losses before and after
cell() {
    local dir=$out/$1-$2-$3
    if [ ! -e "$dir/done" ]; then
        rm -rf "$dir"
        # shellcheck disable=SC2086 # the length is two words
        "build/hone-$1" train --model "$data/babyllama-char105" \
            --data "$data/tinyshakespeare/input.txt" --eval-split 0.1 $length --lr "$2" \
            --seed "$3" --keep 1 --log-every 100 --out "$dir" >&2
        touch "$dir/done"
    fi
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "eval_loss") c = i; next }
             $c != "" { if (first == "") first = $c; last = $c }
             END { print first, last }' "$dir/metrics.csv"
}

echo "| method | learning rate | before | after, mean (s.d., n) |"
echo "|---|---|---|---|"
for method in lora full; do
    rates=$([ $method = lora ] && echo "$lora_lr" || echo "$full_lr")
    for lr in $rates; do
        for seed in $seeds; do cell $method "$lr" "$seed"; done |
            awk -v m=$method -v lr="$lr" '{ b = $1; n++; s += $2; q += $2 * $2 }
                END { v = n > 1 ? (q - s * s / n) / (n - 1) : 0
                      sd = n > 1 ? sprintf("%.4f", sqrt(v > 0 ? v : 0)) : "-"
                      printf "| %s | %s | %.4f | %.4f (%s, %d) |\n", m, lr, b, s / n, sd, n }'
    done
done
