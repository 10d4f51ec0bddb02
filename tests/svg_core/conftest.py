"""Shared inputs of the core's tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def make_qkv():
    """make_qkv(layout, heads, head_dim, batch) -> q, k, v of normal noise, from a generator of its own."""

    def make(layout, heads=2, head_dim=64, batch=1, dtype=torch.float32, seed=0):
        rng = torch.Generator().manual_seed(seed)
        shape = (batch, heads, layout.tokens, head_dim)
        return tuple(torch.randn(shape, generator=rng).to(dtype) for _ in range(3))

    return make
