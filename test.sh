#!/usr/bin/env bash
# All tests, in an environment of their own. COMFYUI_PATH (one or more, colon-separated) says which ComfyUI the
# tests in tests/host/ run against; without it those that stand in the usual places, if any.
set -euo pipefail
cd "$(dirname "$0")"
source demo/environment.sh
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest "$@"
