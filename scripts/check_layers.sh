#!/usr/bin/env bash
# Checks that includes follow the arrows between the folders, in C and CUDA sources:
#   base <- kernels <- device, graph <- model, adapt <- train <- trainers
#   base <- file <- model;  base <- data;  base, file <- fed, flow <- train;  base, device <- comm
#   tests and bench see everything
# and that quoted includes are paths from the root to a header that exists, that only .cu files,
# cuda_*.h and runtime/device touch CUDA's headers, and that no two files share a name.
#   scripts/check_layers.sh [ROOT]       check the tree (default: the one around this script)
#   scripts/check_layers.sh --self-test  plant mistakes in a temporary tree and see them found
set -euo pipefail

check() {
    cd "$1"
    local folders=()
    for folder in runtime kernels trainers bench tests; do
        [ -d $folder ] && folders+=($folder)
    done
    # The list of files comes first, so that includes can be looked up while they are read.
    find "${folders[@]}" -type f \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \
        -o -name '*.def' -o -name '*.inc' -o -name '*.h.in' \) | LC_ALL=C sort >"$list"
    xargs -d '\n' grep -HnE '^[[:space:]]*#[[:space:]]*include' /dev/null <"$list" >"$includes" || true
    awk -v list="$list" '
        function fail(what) { print file ":" line ": " what; bad++ }
        # runtime/graph/op.h -> runtime/graph; kernels/norm/x.h -> kernels
        function layer_of(path,   part) {
            split(path, part, "/")
            return part[1] == "runtime" ? part[1] "/" part[2] : part[1]
        }
        BEGIN {
            base = "runtime/base"; kernels = base " kernels"
            device = kernels " runtime/device"; graph = device " runtime/graph"
            file_ = base " runtime/file"
            may[base] = base
            may["kernels"] = kernels
            may["runtime/device"] = device
            may["runtime/graph"] = graph
            may["runtime/file"] = file_
            may["runtime/data"] = base " runtime/data"
            may["runtime/fed"] = file_ " runtime/fed"
            may["runtime/flow"] = file_ " runtime/flow"
            may["runtime/comm"] = base " runtime/device runtime/comm"
            may["runtime/adapt"] = graph " runtime/adapt"
            # builders call the hook of runtime/adapt; adapt knows no model
            may["runtime/model"] = graph " runtime/file runtime/adapt runtime/model"
            may["runtime/train"] = graph " runtime/file runtime/adapt runtime/model" \
                                   " runtime/data runtime/fed runtime/flow runtime/comm runtime/train"
            may["trainers"] = may["runtime/train"] " trainers"
            may["bench"] = may["trainers"] " bench"
            may["tests"] = may["bench"] " tests"
            while ((getline path < list) > 0) {
                exists[path] = 1
                sub(/\.in$/, "", path)
                exists[path] = 1
                name = path
                sub(/.*\//, "", name)
                if (name in first) {
                    file = path; line = 1
                    fail("there is already a " name ": " first[name])
                }
                first[name] = path
            }
        }
        {
            split($0, place, ":")
            file = place[1]; line = place[2]
            text = $0
            sub(/^[^:]*:[0-9]*:/, "", text)
            sub(/^[[:space:]]*#[[:space:]]*include[[:space:]]*/, "", text)
            quoted = substr(text, 1, 1) == "\""
            target = substr(text, 2)
            sub(/[">].*/, "", target)
            layer = layer_of(file)
            name = file
            sub(/.*\//, "", name)
            if (!quoted) {
                cuda = target ~ /^(cuda|cublas|cudnn|nccl|nvml|cub\/|cooperative_groups|mma\.h)/
                if (cuda && file !~ /\.cuh?$/ && name !~ /^cuda_/ && layer != "runtime/device" &&
                    layer != "runtime/comm" && layer != "tests" && layer != "bench")
                    fail("<" target "> belongs into .cu files, cuda_*.h and runtime/device")
                next
            }
            # tests/ and what is beside a test may be named without a folder
            if (layer == "tests" && ("tests/" target) in exists) next
            if (!(target in exists)) {
                fail("\"" target "\" is no header of this tree (paths start at its root)")
                next
            }
            if (!(layer in may)) {
                fail(layer " is in no layer: name it in scripts/check_layers.sh")
                next
            }
            if (index(" " may[layer] " ", " " layer_of(target) " ") == 0)
                fail(layer " may not include " layer_of(target) " (\"" target "\"), only " may[layer])
        }
        END { exit bad > 0 }
    ' "$includes"
}

# plant FILE LINE...: a file of the temporary tree
plant() {
    mkdir -p "$tree/$(dirname "$1")"
    printf '%s\n' "${@:2}" >"$tree/$1"
}

# Every planted mistake must be reported at its place, and nothing else.
self_test() {
    tree=$temp/tree
    plant runtime/base/status.h '#include <stdio.h>'
    plant kernels/norm/norm.h '#include "runtime/base/status.h"'
    plant kernels/norm/norm_cuda.cu '#include <cuda_runtime.h>' '#include "kernels/norm/norm.h"'
    plant runtime/base/cuda_check.h '#include <cuda_runtime.h>' '#include "runtime/base/status.h"'
    plant runtime/base/version.h.in '/* made by CMake */'
    plant runtime/graph/graph.h '#include "kernels/norm/norm.h"'
    plant runtime/train/loop.c '#include "runtime/graph/graph.h"' '#include "runtime/base/version.h"'
    plant tests/hn_test.h '#include "runtime/train/loop.c"'
    plant tests/test_loop.cc '#include "hn_test.h"'
    if ! (check "$tree"); then
        echo "check_layers.sh: a clean tree was refused" >&2
        return 1
    fi
    plant runtime/base/upward.c '/* line 1 */' '#  include "kernels/norm/norm.h"'
    plant kernels/norm/upward.c '#include "runtime/graph/graph.h"'
    plant runtime/data/sideways.c '#include "runtime/graph/graph.h"'
    plant runtime/graph/relative.c '#include "graph.h"'
    plant kernels/norm/device.h '' '#include <cuda_runtime.h>'
    plant runtime/new/unknown.c '#include "runtime/base/status.h"'
    plant trainers/loop.c '/* same name as runtime/train/loop.c */'
    local expected="kernels/norm/device.h:2 kernels/norm/upward.c:1 runtime/base/upward.c:2"
    expected+=" runtime/data/sideways.c:1 runtime/graph/relative.c:1 runtime/new/unknown.c:1"
    expected+=" runtime/base/upward.c:1 trainers/loop.c:1"
    local found
    found=$(check "$tree" || true)
    for place in $expected; do
        if ! grep -q "^$place: " <<<"$found"; then
            printf 'check_layers.sh: the mistake at %s was not found in:\n%s\n' "$place" "$found" >&2
            return 1
        fi
    done
    if [ "$(wc -l <<<"$found")" -ne "$(wc -w <<<"$expected")" ]; then
        printf 'check_layers.sh: found more than was planted:\n%s\n' "$found" >&2
        return 1
    fi
    echo "check_layers.sh: self-test passed"
}

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
list=$temp/list
includes=$temp/includes
root=$(cd "$(dirname "$0")/.." && pwd)
case ${1-} in
--self-test) self_test ;;
*) (check "${1:-$root}") ;;
esac
