"""centroids: means, sizes and variances against float64."""

from __future__ import annotations

import pytest
import torch
from sparse_videogen.kernels.centroids import centroids
from sparse_videogen.kernels.pack import sort_by_label

# B, H, N, C, D, tokens in the last cluster at least; labels leave cluster 0 empty wherever there are several.
SHAPES = [
    pytest.param(1, 1, 63, 1, 64, 0, id="one-cluster"),
    pytest.param(2, 3, 111, 20, 64, 0, id="batch"),
    pytest.param(1, 1, 63, 100, 128, 0, id="more-clusters-than-tokens"),
    pytest.param(1, 1, 1000, 12, 128, 0, id="many-tokens"),
    pytest.param(1, 1, 1000, 16, 64, 990, id="one-long-cluster-among-small-ones"),
]
# Sums of float32 in another order than torch's: a few roundings of values of order one.
FLOOR = 1e-6


def inputs(b, h, n, c, d, dtype, device, long=0):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(b, h, n, d, generator=rng)
    labels = torch.randint(min(1, c - 1), c, (b, h, n), generator=rng, dtype=torch.int32)
    labels[..., :long] = c - 1
    return x.to(device, dtype), labels.to(device)


def exact(x, labels, c):
    """Means and variances in float64, zeros for an empty cluster."""
    one_hot = (labels.unsqueeze(2) == torch.arange(c, device=x.device).view(1, 1, c, 1)).double()
    count = one_hot.sum(-1, keepdim=True).clamp(min=1)
    mean = one_hot @ x.double() / count
    spread = x.double() - mean.gather(2, labels.long().unsqueeze(-1).expand(x.shape))
    return mean, one_hot.sum(-1).int(), one_hot @ spread.square() / count


def errors(result, expected):
    return [(got.double() - want).abs().max().item() for got, want in zip(result, expected, strict=True)]


@pytest.mark.parametrize("b, h, n, c, d, long", SHAPES)
def test_matches_float64(b, h, n, c, d, long, dtype, backend, device, poisoned):
    x, labels = inputs(b, h, n, c, d, dtype, device, long)
    assignment, expected = sort_by_label(labels, c), exact(x, labels, c)
    result = centroids(x, assignment, variance=True, backend=backend)
    torch_errors = errors(centroids(x, assignment, variance=True), expected)
    assert torch.equal(result.cluster_sizes, expected[1]) and result.cluster_sizes.dtype == torch.int32
    assert result.mean.dtype == result.variance.dtype == torch.float32
    for error, torch_error in zip(errors(result, expected), torch_errors, strict=True):
        assert error <= 2 * min(torch_error, FLOOR) + FLOOR
    single = result.cluster_sizes <= 1  # the token itself, or zeros: nothing to round
    assert torch.equal(result.mean[single].double(), expected[0][single]) and (result.variance[single] == 0).all()


def test_memory_order_does_not_matter(view, backend, device):
    x, labels = inputs(2, 2, 63, 9, 64, torch.float16, device)
    previous = torch.randn(2, 2, 9, 64, device=device)
    expected = centroids(x, sort_by_label(labels, 9), previous=previous, variance=True, backend=backend)
    result = centroids(view(x), sort_by_label(labels, 9), previous=view(previous), variance=True, backend=backend)
    assert all(torch.equal(got, want) for got, want in zip(result, expected, strict=True))


def test_an_empty_cluster_keeps_its_previous_mean(dtype, backend, device, poisoned):
    x, labels = inputs(1, 2, 63, 5, 64, torch.float32, device)
    previous = torch.randn(1, 2, 5, 64, device=device).to(dtype)
    result = centroids(x, sort_by_label(labels, 5), previous=previous, variance=True, backend=backend)
    assert torch.equal(result.mean[:, :, 0], previous[:, :, 0].float())
    assert (result.cluster_sizes[:, :, 0] == 0).all() and (result.variance[:, :, 0] == 0).all()
    without = centroids(x, sort_by_label(labels, 5), backend=backend)
    assert (without.mean[:, :, 0] == 0).all() and torch.equal(without.mean[:, :, 1:], result.mean[:, :, 1:])
    assert without.variance is None


def test_a_small_variance_far_from_zero(backend, device):
    """E[x^2] - E[x]^2 would lose it."""
    x, labels = inputs(1, 1, 111, 3, 64, torch.float32, device)
    result = centroids(1000 + 0.1 * x, sort_by_label(labels, 3), variance=True, backend=backend)
    torch.testing.assert_close(result.variance.double(), exact(1000 + 0.1 * x, labels, 3)[2], rtol=1e-2, atol=1e-6)


def test_rejects_bad_shapes(backend):
    x, labels = torch.zeros(1, 2, 63, 64), torch.zeros(1, 2, 63, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"must be \[B, H, N, D\]"):
        centroids(x, sort_by_label(labels[..., 1:], 5), backend=backend)
    with pytest.raises(ValueError, match="previous"):
        centroids(x, sort_by_label(labels, 5), previous=torch.zeros(1, 2, 6, 64), backend=backend)
