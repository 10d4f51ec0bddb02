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


@pytest.fixture
def make_clustered_qkv(make_qkv):
    """As make_qkv, with tokens near as many places as there are clusters, 10 of q and 20 of k: rounding decides nothing.

    A place for each of the stretches of the video that k-means takes its first centroids from.
    """

    def make(layout, **options):
        q, k, v = make_qkv(layout, **options)
        for x, clusters in ((q, 10), (k, 20)):
            video, tokens = x[:, :, layout.video], layout.video_tokens
            stretch = ((torch.arange(tokens) + 1) * clusters - 1) // tokens
            x[:, :, layout.video] = video[:, :, :clusters][:, :, stretch] + 0.2 * video
        return q, k, v

    return make
