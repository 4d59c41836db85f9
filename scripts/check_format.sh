#!/usr/bin/env bash
# Checks the layout of all tracked sources with clang-format 14, that no file is longer than 800
# lines, and that no merge was left half done. `scripts/check_format.sh --fix` formats instead.
set -euo pipefail
cd "$(dirname "$0")/.."

max_lines=800
formatter=""
for name in clang-format-14 clang-format; do
    if command -v $name >/dev/null && $name --version | grep -q 'version 14\.'; then
        formatter=$name
        break
    fi
done
if [ -z "$formatter" ]; then
    echo "check_format.sh: needs clang-format 14 (other versions format differently)" >&2
    exit 2
fi
mode=(--dry-run -Werror)
if [ "${1-}" = --fix ]; then
    mode=(-i)
fi

status=0
git ls-files -z '*.c' '*.h' '*.cc' '*.cu' '*.cuh' |
    xargs -0 -r -n 16 -P "$(nproc)" "$formatter" "${mode[@]}" || status=1
while IFS= read -r file; do
    lines=$(wc -l <"$file")
    if [ "$lines" -gt $max_lines ]; then
        echo "$file:$lines: longer than $max_lines lines" >&2
        status=1
    fi
done < <(git ls-files '*.c' '*.h' '*.cc' '*.cu' '*.cuh' '*.sh' '*.py' '*.cmake' '*CMakeLists.txt')
if git grep -nIE '^(<<<<<<<|>>>>>>>) ' >&2; then
    echo "check_format.sh: marks of a merge" >&2
    status=1
fi
exit $status
