#!/usr/bin/env bash
# Installs a build folder into a temporary prefix and builds a program against it through
# pkg-config, as a user of the library would.
#   scripts/check_install.sh [BUILD_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."

build=${1:-build}
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
cmake --install "$build" --prefix "$temp/prefix" >/dev/null
cat >"$temp/user.c" <<'C'
#include <stdio.h>

#include <hone.h>
#include <runtime/base/version.h>

int main(void)
{
    json_t *value = NULL;
    if (hn_json_parse("[1, 2", 5, "text", &value) != HN_ERR_FORMAT) return 1;
    if (hn_json_parse("[1, 2]", 6, "text", &value) != HN_OK) return 1;
    printf("hone %s is installed with everything it needs\n", HN_VERSION);
    json_decref(value);
    return 0;
}
C
pc=$(dirname "$(find "$temp/prefix" -name hone.pc)")
# shellcheck disable=SC2046 # the flags are several words
cc -std=c11 -Wall -Werror "$temp/user.c" $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs hone) \
    -o "$temp/user"
"$temp/user"
for file in "$temp/prefix"/bin/*; do
    [ -e "$file" ] || continue
    "$file" --help >/dev/null || {
        echo "check_install.sh: ${file##*/} --help fails" >&2
        exit 1
    }
done
