#!/usr/bin/env bash
# All tests, in an environment of their own. COMFYUI_PATH (one or more, colon-separated) says which ComfyUI the
# tests in tests/host/ and tests/web/ run against; without it those that stand in the usual places, if any. The tests in
# tests/web/ also need a Chromium: an installed one, or the one that $CHROMIUM names.
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
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest "$@"
