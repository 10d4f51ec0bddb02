"""Shared inputs of the core's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def make_qkv():
    """make_qkv(layout, heads, head_dim, batch) -> q, k, v of normal noise, from a generator of its own."""

    def make(layout, heads=2, head_dim=64, batch=1, dtype=torch.float32, seed=0):
        rng = torch.Generator().manual_seed(seed)
        shape = (batch, heads, layout.tokens, head_dim)
        return tuple(torch.randn(shape, generator=rng).to(dtype) for _ in range(3))

    return make
