#!/usr/bin/env bash
# Fine-tunes the small model that comes with hone on a ship's log and shows what it has learnt.
#   scripts/demo.sh [--out DIR] [--steps N] [--no-install]
#     --out DIR     where results go; must not exist (default: the first free out/demo-<n>)
#     --steps N     optimizer steps (default 150, about a minute on 2 cores)
#     --no-install  do not look for missing packages
set -euo pipefail

out=""
steps=150
install=yes
while [ $# -gt 0 ]; do
    case $1 in
    --out)
        out=${2:?--out needs a folder}
        shift
        ;;
    --steps)
        steps=${2:?--steps needs a number}
        shift
        ;;
    --no-install) install=no ;;
    -h | --help)
        sed -n '2,6s/^# //p' "$0"
        exit 0
        ;;
    *)
        echo "demo.sh: unknown option $1 (--help lists them)" >&2
        exit 2
        ;;
    esac
    shift
done
if ! [[ $steps =~ ^[1-9][0-9]{0,5}$ ]]; then
    echo "demo.sh: --steps $steps: wanted a number from 1 to 999999" >&2
    exit 2
fi
case $out in
"" | /*) ;;
*) out=$PWD/$out ;;
esac
cd "$(dirname "$0")/.."
if [ -z "$out" ]; then
    n=1
    while [ -e "out/demo-$n" ]; do n=$((n + 1)); done
    out=out/demo-$n
elif [ -e "$out" ]; then
    echo "demo.sh: --out $out exists already; choose another folder" >&2
    exit 2
fi

model=assets/demo/model
text=assets/demo/voyage.txt
lora=build/hone-lora
prompt='LOG. 14th of March, 1764.'
log=$(mktemp)
trap 'rm -f "$log"' EXIT

say() { printf '\n==== %s\n' "$*"; }

# quiet COMMAND...: keeps what it says on standard error to itself, unless it fails.
quiet() {
    "$@" 2>"$log" || {
        cat "$log" >&2
        echo "demo.sh: failed: $*" >&2
        exit 1
    }
}

write_text() { # [--adapter DIR]
    quiet $lora generate --model $model "$@" --prompt "$prompt" --max-new-tokens 200 \
        --temperature 0.4 --seed 1
    echo
}

held_out() { # [--adapter DIR]: the loss over the last tenth of the text
    quiet $lora eval --model $model "$@" --data $text --eval-split 0.1 >"$log.loss"
    sed -n 's/^loss \([0-9.]*\).*/\1/p' "$log.loss"
    rm -f "$log.loss"
}

if [ $install = yes ]; then
    say "packages"
    scripts/install_deps.sh --plot
fi
say "build"
quiet cmake --preset cpu >/dev/null
cmake --build --preset cpu --parallel "$(nproc)" --target hone hone-lora hone-full

say "before: the model knows little stories, and goes on from \"$prompt\" with"
write_text
before=$(held_out)

say "fine-tuning with LoRA on $text, $steps steps"
$lora train --model $model --data $text --eval-split 0.1 --out "$out" --steps "$steps" \
    --rank 16 --lr 5e-3 --eval-every 15 --seed 1
after=$(held_out --adapter "$out/adapter")

say "after: the same prompt, the same seed"
write_text --adapter "$out/adapter"
scripts/plot_loss.sh "$out"

say "done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
cat <<T
held-out loss:  $before before, $after after (nats per token, the last tenth of the text)
loss curve:     $out/loss.png, $out/loss.svg
adapter:        $out/adapter (PEFT's format)

go on writing:  $lora generate --model $model --adapter $out/adapter --prompt "LOG." --temperature 0.5
as one model:   $lora export --checkpoint $out --kind merged --to $out/merged
in Python:      from peft import PeftModel; from transformers import AutoModelForCausalLM
                net = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("$model"), "$out/adapter")
T
