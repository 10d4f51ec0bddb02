"""assign: the nearest centroid, ties compared by distance."""

from __future__ import annotations

from functools import partial

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
# A score is a sum of D products of float32: a difference of this share of its terms is rounding.
ROUNDING = 1e-5
# Small integers: scores are exact in whatever order a library sums them, so equal distances have equal bits.
whole = partial(torch.randint, -4, 5)


def inputs(b, h, n, c, d, dtype, device, draw=torch.randn):
    rng = torch.Generator().manual_seed(0)
    return [draw((b, h, rows, d), generator=rng).to(device, dtype) for rows in (n, c)]


def excess(x, centroids, labels):
    """How much farther than the nearest centroid the chosen one is, as a share of the terms of the distance."""
    x, centroids = x.double(), centroids.double()
    distance = torch.cdist(x, centroids).square()
    chosen = distance.gather(3, labels.long().unsqueeze(-1)).squeeze(-1)
    scale = x.square().sum(-1) + centroids.square().sum(-1).amax(-1, keepdim=True)
    return (chosen - distance.amin(-1)) / scale


@pytest.mark.parametrize("b, h, n, c, d", SHAPES)
def test_takes_the_nearest(b, h, n, c, d, product_dtype, backend, device, poisoned):
    x, centroids = inputs(b, h, n, c, d, product_dtype, device)
    labels = assign(x, centroids, backend=backend)
    assert labels.dtype == torch.int32 and labels.shape == (b, h, n)
    assert labels.min() >= 0 and labels.max() < c
    assert excess(x, centroids, labels).max() <= ROUNDING


def test_the_lowest_of_equal_centroids_in_any_memory_order(view, backend, device):
    x, centroids = inputs(2, 3, 63, 20, 64, torch.float16, device, draw=whole)
    distance = (x.long().unsqueeze(3) - centroids.long().unsqueeze(2)).square().sum(-1)
    expected = distance.argmin(-1).int()  # the first of equal ones
    assert torch.equal(assign(view(x), view(centroids.repeat(1, 1, 9, 1)), backend=backend), expected)


def test_float32_centroids_of_16_bit_tokens(backend, device):
    """k-means keeps its means in float32; a kernel may round them to the tokens' dtype."""
    x, centroids = inputs(1, 2, 111, 20, 64, torch.float32, device)
    x = x.half()
    assert excess(x, centroids, assign(x, centroids, backend=backend)).max() <= torch.finfo(torch.float16).eps


def metrics(b, h, d, device):
    """Symmetric, with eigenvalues from nearly 0 to 1."""
    basis = torch.linalg.qr(torch.randn(b, h, d, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    return (basis * torch.logspace(-3, 0, d, dtype=torch.float64) @ basis.mT).float().to(device)


@pytest.mark.parametrize("b, h, n, c, d", SHAPES)
def test_takes_the_nearest_in_a_metric(b, h, n, c, d, product_dtype, backend, device, poisoned):
    """As near as the transformed centroids' rounding to the tokens' dtype allows, in the contract's terms."""
    x, centroids = inputs(b, h, n, c, d, product_dtype, device)
    metric = metrics(b, h, d, device)
    labels = assign(x, centroids.float(), metric=metric, backend=backend)
    root = torch.linalg.cholesky(metric.double())  # |(x - c) root|^2 is the distance
    x, centroids = x.double(), centroids.double()
    distance = torch.cdist(x @ root, centroids @ root).square()
    chosen = distance.gather(3, labels.long().unsqueeze(-1)).squeeze(-1)
    scale = x.square().sum(-1) + centroids.square().sum(-1).amax(-1, keepdim=True)
    eps = torch.finfo(product_dtype).eps if backend == "triton" else 0
    assert ((chosen - distance.amin(-1)) / scale).max() <= max(ROUNDING, eps)


def test_the_metric_counts_and_the_identity_is_euclid(view, backend, device):
    x, centroids = inputs(2, 3, 63, 20, 64, torch.float16, device, draw=whole)
    metric = torch.eye(64, device=device).expand(2, 3, -1, -1)
    euclid = assign(x, centroids, backend=backend)
    assert torch.equal(assign(view(x), view(centroids), metric=view(metric), backend=backend), euclid)
    first = metric * (torch.arange(64, device=device) == 0)  # only the first axis counts
    expected = (x[..., :1].int() - centroids[..., 0].int().unsqueeze(2)).abs().argmin(-1).int()
    assert torch.equal(assign(x, centroids, metric=first, backend=backend), expected)
    assert not torch.equal(expected, euclid)


def test_rejects_a_metric_that_does_not_fit(backend):
    with pytest.raises(ValueError, match=r"metric \(1, 64, 64\) must be \(1, 2, 64, 64\)"):
        assign(torch.zeros(1, 2, 63, 64), torch.zeros(1, 2, 20, 64), metric=torch.eye(64).expand(1, -1, -1), backend=backend)


def test_two_runs_are_equal_and_a_token_of_nan_gets_a_label(backend, device):
    x, centroids = inputs(2, 1, 111, 70, 64, torch.float32, device)
    x[0, 0, 5] = float("nan")
    labels = assign(x, centroids, backend=backend)
    assert labels.min() >= 0 and labels.max() < 70
    assert torch.equal(assign(x, centroids, backend=backend), labels)


WRONG = [(1, 2, 20, 128), (1, 3, 20, 64), (2, 2, 20, 64), (2, 20, 64)]


@pytest.mark.parametrize(
    "centroids, message",
    [*((torch.zeros(shape), "must be") for shape in WRONG), (torch.zeros(1, 2, 20, 64, device="meta"), "one device")],
    ids=[*map(str, WRONG), "device"],
)
def test_rejects_centroids_that_do_not_fit(centroids, message, backend):
    with pytest.raises(ValueError, match=message):
        assign(torch.zeros(1, 2, 63, 64), centroids, backend=backend)
