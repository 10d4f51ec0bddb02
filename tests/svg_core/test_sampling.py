"""stratified: one sample a stretch, spread over rows and columns alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparse_videogen.svg_core.sampling import stratified


@given(st.data())
def test_one_sample_in_each_stretch(data):
    n = data.draw(st.integers(1, 5000))
    samples = data.draw(st.integers(1, n))
    got = stratified(samples, n)
    stretch = torch.arange(samples)
    assert got.dtype == torch.int64
    assert torch.all(got >= stretch * n // samples) and torch.all(got < (stretch + 1) * n // samples)


@pytest.mark.parametrize("frames, height, width", [(16, 32, 32), (21, 45, 80), (64, 8, 8)])
def test_samples_do_not_stand_in_one_column(frames, height, width):
    """Even steps of 64 samples over 64 frames of 8 x 8 would all be the same place."""
    places = stratified(64, frames * height * width) % (height * width)
    assert places.unique().numel() > 32
