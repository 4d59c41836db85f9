#!/usr/bin/env bash
# Pretrains the demo's model (assets/demo/model) from random weights on the project's own stories.
#   scripts/make_demo_model.sh [WORK_FOLDER]
# WORK_FOLDER (default: out/demo-model) holds the run; a second call continues one that was cut
# short. Takes about ten minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${1:-out/demo-model}
if [ ! -x build/hone-full ]; then
    echo "make_demo_model.sh: build hone first: scripts/test.sh or scripts/demo.sh" >&2
    exit 2
fi
mkdir -p "$work"
python3 scripts/make_demo_text.py stories --out "$work/stories.jsonl"
train=(build/hone-full train --config assets/demo/pretrain.yaml --data "$work/stories.jsonl"
    --out "$work/run" --resume auto)
# 1,469 steps on the cosine of 5 epochs, then down to zero on that of 3.
"${train[@]}" --stop-after 1469
"${train[@]}" --epochs 3
rm -rf assets/demo/model
cp -r "$work/run/model" assets/demo/model
chmod -R u=rwX,go=rX assets/demo/model
echo "assets/demo/model is new; its held-out loss is the last eval_loss of $work/run/metrics.csv"
