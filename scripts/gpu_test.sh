#!/usr/bin/env bash
# All tests that need a GPU, then compute-sanitizer's memcheck and racecheck on the kernels' tests.
#   scripts/gpu_test.sh [--build FOLDER] [--no-build] [--no-sanitizers] [--jobs N] [--logs FOLDER]
# Without --no-build the CUDA preset is configured and built first; FOLDER (default build-cuda)
# holds the test programs and hone's own. Needs a GPU: without one every part fails. --logs keeps
# what each part printed.
set -uo pipefail
cd "$(dirname "$0")/.."

build=build-cuda
make=yes
sanitizers=yes
jobs=4
logs=
while [ $# -gt 0 ]; do
    case $1 in
    --build) build=${2:?--build needs a folder} && shift ;;
    --no-build) make=no ;;
    --no-sanitizers) sanitizers=no ;;
    --logs) logs=${2:?--logs needs a folder} && shift ;;
    --jobs) jobs=${2:?--jobs needs a number} && shift ;;
    -h | --help)
        sed -n '2,6s/^# //p' "$0"
        exit 0
        ;;
    *)
        echo "gpu_test.sh: unknown option $1 (--help lists them)" >&2
        exit 2
        ;;
    esac
    shift
done
if [ $make = yes ]; then
    cmake --preset cuda -B "$build" && cmake --build "$build" --parallel "$(nproc)" || exit 1
fi

export HN_REQUIRE_GPU=1 HONE_BIN=$build GOMP_SPINCOUNT=3000 OMP_NUM_THREADS=2
if [ -z "$logs" ]; then
    logs=$(mktemp -d)
    trap 'rm -rf "$logs"' EXIT
fi
mkdir -p "$logs"
rm -f "$logs"/*.code # of a run that was broken off
failed=0

# Parts run $jobs at a time; each leaves NAME.log and NAME.code.
part() {
    local name=$1 start=$SECONDS
    shift
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    {
        "$@" >"$logs/$name.log" 2>&1
        echo "$? $((SECONDS - start))" >"$logs/$name.code"
    } &
}

report() {
    wait
    local file name code seconds
    for file in "$logs"/*.code; do
        name=$(basename "$file" .code)
        read -r code seconds <"$file"
        if [ "$code" = 0 ]; then
            printf 'ok      %-44s %4s s  %s\n' "$name" "$seconds" \
                "$(grep -E 'PASSED|ERROR SUMMARY|^races in' "$logs/$name.log" | tail -2 | tr -s '\n=' '  ')"
        else
            failed=1
            printf 'FAILED  %-44s %4s s  exit code %s\n' "$name" "$seconds" "$code"
            grep -vE '^\[ +(OK|RUN|SKIPPED) ' "$logs/$name.log" | tail -n "${HONE_LOG_LINES:-40}"
        fi
    done
    rm -f "$logs"/*.code
}

# The tests of one program whose names say CUDA or cuDNN; the rest of it needs no GPU.
gpu='*Cuda*:*Cudnn*'
kernels=()
for program in "$build"/test_*; do
    [ -x "$program" ] && [ -f "$program" ] || continue
    if ! names=$("$program" --gtest_list_tests --gtest_filter="$gpu"); then
        echo "gpu_test.sh: $program does not list its tests" >&2
        exit 1
    fi
    case $names in *$'\n  '*) kernels+=("$program") ;; esac
done
if [ ${#kernels[@]} -eq 0 ]; then
    echo "gpu_test.sh: no tests for CUDA in $build" >&2
    exit 1
fi

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || exit 1
# What a program says of one GPU is tested on one.
visible=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)}
first=${visible%%,*}
gpus=$(tr ',' '\n' <<<"$visible" | wc -l)
echo "==== kernels, registry and engine"
part engine_memory "$build/test_engine_cuda" --gtest_filter='*Memory*' # looks at the GPU's free memory
wait
for program in "${kernels[@]}"; do
    on=$visible
    case $program in *test_cli_*) on=$first ;; esac
    part "$(basename "$program")" env CUDA_VISIBLE_DEVICES="$on" "$program" --gtest_filter="$gpu-*Memory*"
done
for executor in cuda cuda-graph; do
    part "test_engine.$executor" env HONE_TEST_DEVICE=cuda HONE_TEST_EXECUTOR=$executor \
        "$build/test_engine"
    for name in test_classifier_job test_engine_anchor test_sparse_engine test_sparse_state \
        test_engine_replicas test_client_batch test_fed_client test_segmenter_job test_fed_segment \
        test_hone_client test_params test_few_shot_tune test_drift test_drift_train test_adaptor \
        test_dora; do
        part "$name.$executor" env HONE_TEST_DEVICE=cuda HONE_TEST_EXECUTOR=$executor \
            "$build/$name"
    done
    for name in test_cli_train test_cli_sparse test_cli_fedref test_cli_fedref_volumes \
        test_cli_hyperflow test_cli_hyperflow_signals test_cli_dora; do
        part "$name.$executor" env HONE_TEST_DEVICE=cuda HONE_TEST_EXECUTOR=$executor \
            CUDA_VISIBLE_DEVICES="$first" "$build/$name"
    done
done
part "test_cli_verbs.cuda" env HONE_TEST_DEVICE=cuda CUDA_VISIBLE_DEVICES="$first" "$build/test_cli_verbs"
if [ "$gpus" -gt 1 ]; then
    for name in test_cli_ranks test_cli_pearl_ranks test_cli_fedref_ranks test_cli_hyperflow_ranks \
        test_cli_zero_ranks test_cli_norm_ranks; do
        part $name.cuda env HONE_TEST_DEVICE=cuda "$build/$name"
    done
fi
report

# Beside other sanitizers memcheck now and then ends the captured graphs of test_block_dw* with an
# "illegal address" of no kernel, as racecheck always does (below); alone it never has.
memcheck() {
    local left=$gpu
    case $1 in *test_block_dw | *test_block_dw_tiles_cuda) left="$gpu-*CapturedGraph*" ;; esac
    compute-sanitizer --tool memcheck --error-exitcode 9 "$1" --gtest_filter="${2:-$left}"
}

# racecheck reports cuBLASLt's and cuDNN's own kernels (it takes their barriers for none): only ours
# count. It crashes (2025.3.1) where a conditional node of a captured graph holds products. Of top-k
# it takes small ranges: millions of scores would take it hours; of conv3d and client_cnn every kind
# of kernel once.
racecheck() {
    local text code left=$gpu own
    case $1 in
    *test_linear_ce | *test_block_dw | *test_block_dw_tiles_cuda) left="$gpu-*CapturedGraph*" ;;
    *test_topk) left=*SmallRanges* ;;
    *test_conv3d_cuda) left='*meshnet5*:*unet_4*:*unet_boxes_bf16*:*stride*:*by_patches*' ;;
    *test_client_cnn) left='*Cuda*small*:*Cuda*/padded*:*CudaClients*' ;;
    *test_registry)
        left="$gpu-*CapturedGraph/linear_ce:*ReplayReadsTheStepBlock/linear_ce"
        left+=":*CapturedGraph/block_dw:*ReplayReadsTheStepBlock/block_dw"
        ;;
    esac
    text=$(compute-sanitizer --tool racecheck --print-limit 1000000 "$1" --gtest_filter="$left" 2>&1)
    code=$?
    printf '%s\n' "$text"
    own=$(printf '%s\n' "$text" | grep ' access at ' | grep -vcE ' access at (nvjet|cudnn)_')
    echo "races in kernels of our own: $own"
    [ $code = 0 ] && [ "$own" = 0 ]
}

if [ $sanitizers = yes ]; then
    echo "==== compute-sanitizer memcheck, alone"
    for name in test_block_dw test_block_dw_tiles_cuda; do
        part "$name.graphs.memcheck" memcheck "$build/$name" '*Cuda*CapturedGraph*'
    done
    report
    for tool in memcheck racecheck; do
        echo "==== compute-sanitizer $tool"
        for program in "${kernels[@]}"; do
            # the last ones are several processes, and kernels of NCCL
            case $program in
            *test_engine_cuda | *test_cli_* | *test_comm | *test_shards | *test_*_ranks) continue ;;
            esac
            part "$(basename "$program").$tool" $tool "$program"
        done
        report
    done
fi
echo "==== $([ $failed = 0 ] && echo all passed || echo FAILED) in $SECONDS s"
exit $failed
