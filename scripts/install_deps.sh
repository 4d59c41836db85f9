#!/usr/bin/env bash
# Installs what building and testing hone needs, and only what is missing (Debian, Ubuntu).
#   scripts/install_deps.sh [--checks] [--fuzz] [--plot] [--package]
#     --checks  also clang-format 14, for scripts/check_format.sh; iproute2, for test_hub_hosts;
#               mpirun, for scripts/test.sh --mpi
#     --fuzz    also clang with its OpenMP, for the preset "fuzz"
#     --plot    also gnuplot, for the loss curve of scripts/demo.sh and bench/plot.py
#     --package also patchelf, for scripts/package.sh without -DHONE_STATIC=ON
# Elsewhere it prints the list and exits with 2.
set -euo pipefail

# <command>:<package> where any version from anywhere will do, else a package.
wanted=(gcc:gcc g++:g++ cmake:cmake ninja:ninja-build pkg-config:pkgconf libc6-dev
    libopenblas-openmp-dev libjansson-dev libyaml-dev libpcre2-dev libutf8proc-dev libssl-dev
    zlib1g-dev libjpeg-dev libpng-dev libgtest-dev)
for option in "$@"; do
    case $option in
    --checks)
        wanted+=(clang-format-14:clang-format-14 git:git ip:iproute2 mpirun:openmpi-bin)
        ;;
    --fuzz) wanted+=(clang:clang libomp-dev) ;;
    --plot) wanted+=(gnuplot:gnuplot-nox) ;;
    --package) wanted+=(patchelf:patchelf) ;;
    *)
        echo "install_deps.sh: unknown option $option" >&2
        exit 2
        ;;
    esac
done

installed() {
    case $1 in
    *:*) command -v "${1%%:*}" >/dev/null ;;
    *) [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
    esac
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "install_deps.sh knows Debian and Ubuntu. Install these, or what your system calls them:" >&2
    echo "  a C11 and C++20 compiler, CMake 3.22, Ninja, pkg-config; development files of OpenBLAS" \
        "(OpenMP flavour), Jansson, libyaml, PCRE2, utf8proc, OpenSSL 3, zlib, libjpeg-turbo, libpng," \
        "GoogleTest" >&2
    exit 2
fi

missing=()
for entry in "${wanted[@]}"; do
    installed "$entry" || missing+=("${entry##*:}")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "install_deps.sh: everything is there"
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install_deps.sh: not root and no sudo; missing: ${missing[*]}" >&2
        exit 2
    fi
    as_root=(sudo)
fi
echo "install_deps.sh: installing ${missing[*]}"
"${as_root[@]}" apt-get -o Acquire::Retries=3 update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends "${missing[@]}"
