#!/usr/bin/env bash
# Makes a folder with hone's programs that runs on another machine of the same architecture:
#   scripts/package.sh [BUILD_FOLDER] [--out DIR]
# -> DIR/hone-<version>-<arch>/ with bin/, lib/ (libraries that the programs need and that are not
# part of the C library or CUDA), LICENSE. DIR: out. The folder may be moved: programs find lib/ from
# where they are. A CUDA build needs the driver and libcublasLt on the other machine. Prints the
# oldest C library that the programs start with. Needs patchelf only where lib/ is not empty:
# a build with -DHONE_STATIC=ON needs neither.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

build=build
out=out
while [ $# -gt 0 ]; do
    case $1 in
    --out)
        out=${2:?--out needs a folder}
        shift
        ;;
    -h | --help)
        sed -n '2,8s/^# //p' "$0"
        exit 0
        ;;
    -*)
        echo "package.sh: unknown option $1 (--help lists them)" >&2
        exit 2
        ;;
    *) build=$1 ;;
    esac
    shift
done
absolute() {
    case $1 in
    /*) echo "$1" ;;
    *) if [ -e "$here/$1" ]; then echo "$here/$1"; else echo "$PWD/$1"; fi ;;
    esac
}
build=$(absolute "$build")
out=$(absolute "$out")
if [ ! -e "$build/CMakeCache.txt" ]; then
    echo "package.sh: $build is no build folder" >&2
    exit 2
fi
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$build/CMakeCache.txt")
folder=$out/hone-$version-$(uname -m)
programs=("$build"/hone "$build"/hone-*)
rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib"
cp LICENSE "$folder"

# Of the C library and the loader; whoever runs a program has them.
system='^(linux-vdso|ld-linux[^ ]*|libc|libm|libdl|libpthread|librt)\.so'

n=0
for program in "${programs[@]}"; do
    if [ ! -f "$program" ] || [ ! -x "$program" ]; then continue; fi
    cp "$program" "$folder/bin/"
    n=$((n + 1))
    missing=$(ldd "$program" | awk '/not found/ { print $1 }')
    if [ -n "$missing" ]; then
        echo "package.sh: $program: not found: $missing" >&2
        exit 1
    fi
    while read -r name path; do
        [[ $name =~ $system ]] || cp -Ln "$path" "$folder/lib/$name" 2>/dev/null || true
    done < <(ldd "$program" | awk '$2 == "=>" { print $1, $3 }')
done
if [ $n -eq 0 ]; then
    echo "package.sh: no programs in $build: build it first" >&2
    exit 2
fi
strip --strip-unneeded "$folder"/bin/*
if ! rmdir "$folder/lib" 2>/dev/null; then
    if ! command -v patchelf >/dev/null; then
        echo "package.sh: patchelf is missing (scripts/install_deps.sh --package); or build with -DHONE_STATIC=ON" >&2
        exit 2
    fi
    for file in "$folder"/bin/*; do patchelf --set-rpath "\$ORIGIN/../lib" "$file"; done
    for file in "$folder"/lib/*; do patchelf --set-rpath "\$ORIGIN" "$file"; done
fi

# What is in the folder must not need anything else, and must start with an empty environment.
for program in "$folder"/bin/*; do
    outside=$(env -i /usr/bin/ldd "$program" | awk -v own="$folder/" -v standard="$system" '
        $1 ~ standard || $1 ~ /^\// || $1 == "statically" { next }
        $2 == "=>" && index($3, own) != 1 { print $1 " " $3 }')
    if [ -n "$outside" ]; then
        echo "package.sh: $program needs libraries outside the folder: $outside" >&2
        exit 1
    fi
    env -i "$program" --help >/dev/null || {
        echo "package.sh: $program --help fails in an empty environment" >&2
        exit 1
    }
done
find "$folder" -type f \( -path '*/bin/*' -o -name '*.so*' \) -exec objdump -T {} + 2>/dev/null |
    grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -1 >"$folder/.glibc"
glibc=$(cut -d_ -f2 "$folder/.glibc")
rm "$folder/.glibc"
{
    echo "hone $version, $(uname -m). Programs in bin/; hone METHOD VERB --help."
    echo "Needs glibc $glibc or newer."
    if grep -q '^HONE_CUDA:BOOL=ON' "$build/CMakeCache.txt"; then
        toolkit=$(sed -n 's/^set(CMAKE_CUDA_COMPILER_VERSION "\(.*\)")/\1/p' \
            "$build"/CMakeFiles/*/CMakeCUDACompiler.cmake)
        archs=$(sed -n 's/^HONE_CUDA_ARCHS:STRING=//p' "$build/CMakeCache.txt")
        ptx=$(sed -n 's/^HONE_CUDA_PTX:STRING=//p' "$build/CMakeCache.txt")
        echo "On a GPU: code for $archs${ptx:+ and PTX for $ptx}; NVIDIA's driver, and" \
            "libcublasLt of CUDA ${toolkit:+${toolkit%%.*} }where the loader finds it" \
            "(LD_LIBRARY_PATH)."
    fi
} >"$folder/README"
cat "$folder/README"
du -sh "$folder" | awk '{ print $2 ": " $1 }'
