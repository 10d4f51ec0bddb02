"""Importing this loads the checkout as `sparse_videogen`, and puts the modules of the demo and the harness within reach."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "tests" / "harness")]

from load_pack import load_pack  # noqa: E402

load_pack()
