"""assign: the nearest centroid, ties compared by distance."""

from __future__ import annotations

import pytest
import torch
from sparse_videogen.kernels.assign import assign

# B, H, N, C, D
SHAPES = [
    pytest.param(1, 1, 63, 1, 64, id="one-centroid"),
    pytest.param(2, 3, 111, 20, 64, id="batch"),
    pytest.param(1, 2, 111, 300, 128, id="more-centroids-than-tokens"),
    pytest.param(1, 1, 1000, 70, 128, id="many-tokens"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# A score is a sum of D products of float32: a difference of this share of its terms is rounding.
ROUNDING = 1e-5


def inputs(b, h, n, c, d, dtype, device, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x, centroids = torch.randn(b, h, n, d, generator=rng), torch.randn(b, h, c, d, generator=rng)
    return x.to(device, dtype), centroids.to(device, dtype)


def whole_inputs(b, h, n, c, d, dtype, device, seed=0):
    """Small integers: scores are exact in whatever order a library sums them, so equal distances have equal bits."""
    rng = torch.Generator().manual_seed(seed)
    shapes = (b, h, n, d), (b, h, c, d)
    return tuple(torch.randint(-4, 5, shape, generator=rng).to(device, dtype) for shape in shapes)


def lowest_nearest(x, centroids):
    """The contract's label, in integers."""
    distance = (x.long().unsqueeze(3) - centroids.long().unsqueeze(2)).square().sum(-1)
    return distance.argmin(-1).int()  # the first of equal ones


def excess(x, centroids, labels):
    """How much farther than the nearest centroid the chosen one is, as a share of the terms of the distance."""
    x, centroids = x.double(), centroids.double()
    distance = torch.cdist(x, centroids).square()
    chosen = distance.gather(3, labels.long().unsqueeze(-1)).squeeze(-1)
    scale = x.square().sum(-1) + centroids.square().sum(-1).amax(-1, keepdim=True)
    return (chosen - distance.amin(-1)) / scale


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("b, h, n, c, d", SHAPES)
def test_takes_the_nearest(b, h, n, c, d, dtype, backend, device, multiplies, poisoned):
    multiplies(dtype)
    x, centroids = inputs(b, h, n, c, d, dtype, device)
    labels = assign(x, centroids, backend=backend)
    assert labels.dtype == torch.int32 and labels.shape == (b, h, n)
    assert labels.min() >= 0 and labels.max() < c
    assert excess(x, centroids, labels).max() <= ROUNDING


def test_memory_order_does_not_matter(view, backend, device):
    x, centroids = whole_inputs(2, 3, 63, 20, 64, torch.float16, device)
    assert torch.equal(assign(view(x), view(centroids), backend=backend), lowest_nearest(x, centroids))


def test_float32_centroids_of_16_bit_tokens(backend, device):
    """k-means keeps its means in float32; a kernel may round them to the tokens' dtype."""
    x, _ = inputs(1, 2, 111, 1, 64, torch.float16, device)
    _, centroids = inputs(1, 2, 1, 20, 64, torch.float32, device)
    assert excess(x, centroids, assign(x, centroids, backend=backend)).max() <= torch.finfo(torch.float16).eps


def test_centroids_find_themselves(backend, device):
    x, _ = inputs(1, 2, 63, 1, 64, torch.float16, device)
    assert torch.equal(assign(x, x, backend=backend), torch.arange(63, device=device).int().expand(1, 2, -1))


def test_the_lowest_of_equal_centroids(backend, device):
    x, centroids = whole_inputs(1, 2, 63, 20, 64, torch.float16, device)
    expected = lowest_nearest(x, centroids)
    assert torch.equal(assign(x, centroids.repeat(1, 1, 9, 1), backend=backend), expected)


def test_a_token_of_nan_gets_a_label(backend, device):
    x, centroids = inputs(1, 1, 63, 20, 64, torch.float16, device)
    x[0, 0, 5] = float("nan")
    labels = assign(x, centroids, backend=backend)
    assert labels.min() >= 0 and labels.max() < 20


def test_two_runs_are_equal(backend, device):
    x, centroids = inputs(2, 1, 111, 70, 64, torch.float32, device)
    assert torch.equal(assign(x, centroids, backend=backend), assign(x, centroids, backend=backend))


@pytest.mark.parametrize("shape", [(1, 2, 20, 128), (1, 3, 20, 64), (2, 2, 20, 64), (2, 20, 64)], ids=str)
def test_rejects_centroids_of_another_shape(shape, backend):
    with pytest.raises(ValueError, match="must be"):
        assign(torch.zeros(1, 2, 63, 64), torch.zeros(shape), backend=backend)


def test_rejects_two_devices(backend):
    with pytest.raises(ValueError, match="one device"):
        assign(torch.zeros(1, 2, 63, 64), torch.zeros(1, 2, 20, 64, device="meta"), backend=backend)
