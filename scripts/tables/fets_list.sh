#!/usr/bin/env bash
# The list of volumes (runtime/data/volumes.h) of a copy of the FeTS 2022 training data, with the
# institutions as sites:
#   scripts/tables/fets_list.sh DIR [--modality all|t1|t1ce|t2|flair] [--partitioning FILE] >list.tsv
# all (the default): four columns of images, for --channels t1,t1ce,t2,flair. DIR holds a folder for each subject and partitioning_1.csv (Partition_ID,Subject_ID). A subject of
# the partitioning whose files are missing is an error: nothing is left out silently.
set -euo pipefail

fail() {
    echo "fets_list.sh: $*" >&2
    exit 2
}
[ $# -ge 1 ] || fail "the folder of the data is missing"
dir=$1 modality=all partitioning=$1/partitioning_1.csv
shift
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 wants a value"
    case $1 in
    --modality) modality=$2 ;;
    --partitioning) partitioning=$2 ;;
    *) fail "unknown option $1" ;;
    esac
    shift 2
done
case $modality in
all) channels="t1 t1ce t2 flair" ;;
t1 | t1ce | t2 | flair) channels=$modality ;;
*) fail "no modality $modality" ;;
esac
[ -r "$partitioning" ] || fail "$partitioning is not there"
dir=$(cd "$dir" && pwd)

line=0
while IFS=, read -r site subject || [ -n "${site-}" ]; do
    line=$((line + 1))
    subject=${subject%$'\r'}
    if [ $line -eq 1 ] || [ -z "$site" ]; then continue; fi
    case $subject in '' | */* | *$'\t'*) fail "$partitioning:$line: no subject '$subject'" ;; esac
    for what in $channels seg; do
        file=$dir/$subject/${subject}_$what.nii.gz
        [ -r "$file" ] || fail "$partitioning:$line: $file is not there"
        printf '%s\t' "$file"
    done
    printf '%s\n' "$site"
done <"$partitioning"
[ $line -gt 1 ] || fail "$partitioning has no subjects"
