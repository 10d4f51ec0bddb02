#!/usr/bin/env bash
# All tests, in an environment of their own and in a process per core; or, with pytest's arguments, those that they name.
# COMFYUI_PATH (one or more, colon-separated) says which ComfyUI the tests in tests/host/ and tests/web/ run against; without it
# those that stand in the usual places, if any. The tests in tests/web/ also need a Chromium: an installed one, or the one that
# $CHROMIUM names.
set -euo pipefail
cd "$(dirname "$0")"
source demo/environment.sh
# The kernels are compiled under the oldest Triton that users' torch brings, one between and the newest, each from its own
# folder.
for triton in "oldest triton==3.3.*" "middle triton==3.6.*" "newest triton"; do
    set -- "${triton%% *}" "${triton#* }" "$@"
    if [ ! -e ".venv/triton-$1/triton" ]; then
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --target ".venv/triton-$1" "$2"
    fi
    shift 2
done
# What raylight shares a video out with; xFuser and yunchang without what they require, of which the tests need nothing. raylight
# itself is looked for like ComfyUI: $RAYLIGHT_PATH, or a checkout in the usual places.
if [ ! -e .venv/engines/xfuser ]; then
    install=("$PYTHON" -m pip install --quiet --disable-pip-version-check --target .venv/engines)
    "${install[@]}" "ray>=2.48"
    "${install[@]}" --no-deps "yunchang==0.6.*" "xfuser==0.4.5"  # raylight 1.5 does not start with a later xFuser
fi
"$PYTHON" -m ruff check .
if [ $# = 0 ]; then
    set -- --numprocesses auto --maxprocesses 4 --dist loadscope
fi
exec "$PYTHON" -m pytest "$@"
