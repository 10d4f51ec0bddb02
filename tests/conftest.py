"""Loads the pack as `sparse_videogen`, never through sys.path: the checkout's root would hide ComfyUI's modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
sys.path.insert(0, str(ROOT / "demo"))

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton kernels run on the CPU; must be set before triton is imported

from load_pack import load_pack  # noqa: E402

load_pack()
