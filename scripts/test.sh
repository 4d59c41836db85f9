#!/usr/bin/env bash
# Installs what is missing, builds and runs the tests.
#   scripts/test.sh [--no-install] [--preset cpu|cuda|asan] [--asan] [--mpi] [-- ctest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."

install=yes
preset=cpu
options=()
while [ $# -gt 0 ]; do
    case $1 in
    --no-install) install=no ;;
    --asan) preset=asan ;;
    --mpi) options+=(-DHONE_TEST_MPI=ON) ;;
    --preset)
        preset=${2:?--preset needs a name}
        shift
        ;;
    --)
        shift
        break
        ;;
    -h | --help)
        sed -n '2,3s/^# //p' "$0"
        exit 0
        ;;
    *)
        echo "test.sh: unknown option $1 (--help lists them)" >&2
        exit 2
        ;;
    esac
    shift
done

if [ $install = yes ]; then
    scripts/install_deps.sh
fi
jobs=$(nproc)
cmake --preset "$preset" "${options[@]}"
cmake --build --preset "$preset" --parallel "$jobs"
# Every test uses all cores by itself: two at a time fill the gaps.
ctest --preset "$preset" --parallel 2 "$@"
