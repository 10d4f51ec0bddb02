#!/usr/bin/env bash
# The pack's main job on a fresh machine: dense, SVG and SVG2 side by side, as a table and a picture in demo/out/.
set -euo pipefail
cd "$(dirname "$0")"
source demo/environment.sh
exec "$PYTHON" demo/demo.py "$@"
