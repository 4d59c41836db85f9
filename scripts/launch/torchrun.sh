#!/usr/bin/env bash
# Trains with PyTorch's torchrun as the launcher: one rank a GPU. Nothing of PyTorch is in the ranks;
# --no-python starts the program as it is.
#   scripts/launch/torchrun.sh --model DIR --data FILE --out DIR               on this host
#   HOSTS=2 FIRST=gnode7 scripts/launch/torchrun.sh --model DIR ...            run on both hosts
#     GPUS      ranks of this host (default: the GPUs that nvidia-smi lists)
#     PORT      where the agents meet on FIRST (default 29500); the ranks meet on a port of their own
#     RUN       name of the job, the same on all hosts (default hone)
#     RESTARTS  how often all ranks are started again when one has died (default 3)
# --resume auto makes a restart go on from the last complete checkpoint in --out.
set -euo pipefail

gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
if [ "${HOSTS:-1}" -gt 1 ]; then
    first=${FIRST:?several hosts need FIRST, the host where the agents meet}
    meet=(--rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --rdzv-id "${RUN:-hone}")
else
    meet=(--standalone)
fi
# torchrun sets OMP_NUM_THREADS to 1 where it is not set: too few for the tokenizer.
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > gpus ? cores / gpus : 1))}
exec torchrun --no-python --nnodes "${HOSTS:-1}" --nproc-per-node "$gpus" \
    --max-restarts "${RESTARTS:-3}" "${meet[@]}" hone-lora train --resume auto "$@"
