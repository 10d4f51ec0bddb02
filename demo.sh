#!/usr/bin/env bash
# The pack's main job on a fresh machine: a tiny model's video, dense, by SVG and by SVG2, as a table and pictures in demo/out/.
set -euo pipefail
cd "$(dirname "$0")"
source demo/environment.sh
exec "$PYTHON" demo/demo.py "$@"
