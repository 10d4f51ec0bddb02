"""bins: places along the axes of clusters."""

from __future__ import annotations

import pytest
import torch
from sparse_videogen.kernels.bins import bins

SHAPES = [
    pytest.param(1, 1, 63, 64, 3, id="odd"),
    pytest.param(2, 3, 111, 128, 7, id="heads"),
    pytest.param(1, 2, 1, 64, 1, id="one-token"),
    pytest.param(1, 1, 20, 128, 40, id="more-clusters-than-tokens"),
]


def inputs(b, h, n, d, clusters, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(b, h, n, d, generator=rng).to(dtype)
    labels = torch.randint(0, clusters, (b, h, n), generator=rng, dtype=torch.int32)
    axis = 4 * torch.randn(b, h, clusters, d, generator=rng) / d**0.5
    return x, labels, axis, 4 + torch.randn(b, h, clusters, generator=rng)


@pytest.mark.parametrize("b, h, n, d, clusters", SHAPES)
def test_reference_is_the_formula(b, h, n, d, clusters):
    x, labels, axis, offset = inputs(b, h, n, d, clusters)
    found = bins(x, labels, axis, offset, 8)
    for i, j, token in ((0, 0, 0), (b - 1, h - 1, n - 1)):
        label = labels[i, j, token]
        place = (x[i, j, token].double() @ axis[i, j, label].double() + offset[i, j, label]).item()
        assert found[i, j, token] == label * 8 + min(7, max(0, int(place // 1)))
    assert torch.equal(found // 8, labels) and (n < 60 or len(found.remainder(8).unique()) == 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("order", ["tokens", "heads"])
@pytest.mark.parametrize("b, h, n, d, clusters", SHAPES)
def test_triton_matches_reference(b, h, n, d, clusters, order, dtype):
    """Products are added in another order: a token at the edge of two bins may fall into either."""
    x, *others = inputs(b, h, n, d, clusters, dtype)
    if order == "heads":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    found, expected = (bins(x, *others, 8, backend=backend) for backend in ("triton", "torch"))
    assert found.dtype == torch.int32 and (found - expected).abs().max() <= 1
    assert (found != expected).float().mean() < 0.02 and torch.equal(found // 8, others[0])


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_what_is_no_number_stays_in_its_cluster(backend):
    x, labels, axis, offset = inputs(1, 1, 63, 64, 3)
    x[:, :, 5], x[:, :, 6] = float("nan"), float("inf")
    assert torch.equal(bins(x, labels, axis, offset, 8, backend=backend) // 8, labels)


def test_rejects_shapes_that_do_not_fit():
    x, labels, axis, offset = inputs(1, 2, 63, 64, 3)
    with pytest.raises(ValueError, match="bins: x"):
        bins(x, labels[:, :, 1:], axis, offset, 8)
    with pytest.raises(ValueError, match="bins: offset"):
        bins(x, labels, axis, offset[:, :1], 8)
