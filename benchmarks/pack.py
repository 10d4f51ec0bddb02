"""The checkout as the package `sparse_videogen`, and the demo's modules: importing this puts both within reach."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "demo"))

from load_pack import load_pack  # noqa: E402

load_pack()
