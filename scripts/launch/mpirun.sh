#!/usr/bin/env bash
# Trains with Open MPI's mpirun as the launcher: one rank a GPU. Open MPI only starts the ranks; they
# talk through NCCL.
#   scripts/launch/mpirun.sh RANKS --model DIR --data FILE --out DIR           on this host
#   HOSTFILE=hosts scripts/launch/mpirun.sh RANKS --model DIR ...              on those in the file
# A hostfile has lines such as "gnode7 slots=4". Its first host is where rank 0 runs and listens, on
# PORT (default 24700); HONE_RENDEZVOUS says otherwise. The program, model, data and --out are under
# the same paths everywhere. --resume auto: the same command goes on with a run that was interrupted.
set -euo pipefail

ranks=${1:?usage: mpirun.sh RANKS options of hone-lora train}
shift
# A rank has several threads: no binding to one core.
options=(-n "$ranks" --bind-to none)
if [ -n "${HOSTFILE-}" ]; then
    first=$(awk '!/^[[:space:]]*(#|$)/ { print $1; exit }' "$HOSTFILE")
    export HONE_RENDEZVOUS=${HONE_RENDEZVOUS:-tcp:$first:${PORT:-24700}}
    options+=(--hostfile "$HOSTFILE")
fi
for name in HONE_RENDEZVOUS HONE_RENDEZVOUS_SECRET; do
    if [ -n "${!name-}" ]; then
        options+=(-x "$name")
    fi
done
exec mpirun "${options[@]}" hone-lora train --resume auto "$@"
