"""select: the smallest set of clusters that holds top_p, against float64."""

from __future__ import annotations

import math

import pytest
import torch
from sparse_videogen.kernels.select import select as select_clusters

# B, H, Cq, Ck, T, M
SHAPES = [
    pytest.param(1, 1, 1, 1, 1, 16, id="one-of-each"),
    pytest.param(2, 3, 9, 63, 3, 16, id="batch"),
    pytest.param(1, 1, 40, 111, 4, 24, id="rows-no-power-of-two"),
    pytest.param(1, 1, 5, 1500, 2, 64, id="more-columns-than-a-block"),
]
# The masses are sums of float32: a cluster may differ where the sum before it meets top_p this closely.
BORDER = 1e-5


def inputs(b, h, q_clusters, k_clusters, tiles, rows, device):
    """Distributions, and rows sorted by cluster and cut into tiles; the last tile is not full."""
    rng = torch.Generator().manual_seed(0)
    probs = (3 * torch.randn(b, h, q_clusters, k_clusters, generator=rng)).softmax(-1)
    labels = torch.randint(0, q_clusters, (b, h, tiles * rows), generator=rng, dtype=torch.int32).sort(-1).values
    labels[..., -rows // 2 :] = -1
    return probs.to(device), labels.view(b, h, tiles, rows).to(device)


def select(probs, row_labels, top_p, min_keep, backend):
    """What is cluster_mask, of clusters with 1, 2, 3, ... keys; their number is looked at here."""
    cluster_sizes = torch.arange(probs.shape[3], dtype=torch.int32, device=probs.device).expand(*probs.shape[:2], -1) + 1
    cluster_mask, count = select_clusters(probs, row_labels, cluster_sizes, top_p, min_keep, backend=backend)
    assert count.dtype == torch.int32 and torch.equal(count, (cluster_mask * cluster_sizes.unsqueeze(2)).sum(-1).int())
    return cluster_mask


def masses(probs, row_labels):
    """Mean distribution of each tile's rows in float64, [B, H, T, Ck]."""
    one_hot = (row_labels.unsqueeze(-1) == torch.arange(probs.shape[2], device=probs.device)).double()
    rows = (row_labels >= 0).sum(-1, keepdim=True).clamp(min=1)
    return one_hot.sum(3) @ probs.double() / rows


def plain(mass, top_p, min_keep):
    """What to keep, and where that is a matter of rounding."""
    ranked, order = mass.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    rank = torch.arange(mass.shape[-1], device=mass.device)
    enough = rank >= math.ceil(min_keep * mass.shape[-1])
    keep, border = (before < top_p) | ~enough, ((before - top_p).abs() <= BORDER) & enough
    return [torch.zeros_like(keep).scatter_(-1, order, x) for x in (keep, border)]


@pytest.mark.parametrize("top_p, min_keep", [(0.9, 0.1), (0.3, 0.0), (0.01, 0.5), (0.9999, 0.0), (1.0, 0.0)], ids=str)
@pytest.mark.parametrize("b, h, q_clusters, k_clusters, tiles, rows", SHAPES)
def test_matches_float64(b, h, q_clusters, k_clusters, tiles, rows, top_p, min_keep, backend, device, poisoned):
    probs, row_labels = inputs(b, h, q_clusters, k_clusters, tiles, rows, device)
    cluster_mask = select(probs, row_labels, top_p, min_keep, backend=backend)
    assert cluster_mask.dtype == torch.bool and cluster_mask.shape == (b, h, tiles, k_clusters)
    expected, border = plain(masses(probs, row_labels), top_p, min_keep)
    assert ((cluster_mask == expected) | border).all()


def test_top_p_1_keeps_all_and_a_tile_without_rows_nothing(backend, device, poisoned):
    probs, row_labels = inputs(1, 2, 9, 63, 3, 16, device)
    row_labels[:, 1, 0] = -1
    for top_p, min_keep in ((1.0, 0.0), (0.5, 1.0)):
        cluster_mask = select(probs, row_labels, top_p, min_keep, backend=backend)
        assert not cluster_mask[:, 1, 0].any() and cluster_mask[:, 0].all() and cluster_mask[:, 1, 1:].all()
    assert not select(probs, row_labels, 0.5, 0.0, backend=backend)[:, 1, 0].any()


# One cluster of 1,100 that holds all: the other masses underflow to 0, and must not all be kept with the last that is needed.
SHARP = torch.zeros(1100).index_fill(0, torch.tensor(1050), 1.0)


@pytest.mark.parametrize(
    "probs, top_p, min_keep, kept",
    [
        (torch.full((64,), 1 / 64), 0.25, 0.0, range(16)),
        (torch.full((64,), 1 / 64), 0.26, 0.0, range(17)),
        (torch.full((64,), 1 / 64), 0.01, 0.5, range(32)),
        (SHARP, 0.9, 0.0, [1050]),
        (SHARP, 0.9, 0.01, [*range(10), 1050]),
    ],
    ids=["equal", "equal-and-more", "equal-min-keep", "sharp", "sharp-min-keep"],
)
def test_equal_masses_go_by_number(probs, top_p, min_keep, kept, backend, device):
    row_labels = torch.zeros(1, 1, 1, 16, dtype=torch.int32, device=device)
    cluster_mask = select(probs.view(1, 1, 1, -1).to(device), row_labels, top_p, min_keep, backend=backend)
    assert cluster_mask.flatten().nonzero().flatten().tolist() == list(kept)


def test_memory_order_does_not_matter_and_two_runs_are_equal(backend, device):
    probs, row_labels = inputs(1, 2, 9, 63, 3, 16, device)
    turned = probs.mT.contiguous().mT, row_labels.mT.contiguous().mT
    expected, border = plain(masses(probs, row_labels), 0.8, 0.1)
    first, second = (select(*turned, 0.8, 0.1, backend=backend) for _ in range(2))
    assert ((first == expected) | border).all() and torch.equal(first, second)


def test_what_is_no_number_keeps_all(backend, device):
    """So that it shows in the result, where nothing cluster_mask would be zeros."""
    probs, row_labels = inputs(1, 2, 9, 63, 3, 16, device)
    probs[0, 1] = float("nan")
    cluster_mask = select(probs, row_labels, 0.5, 0.0, backend=backend)
    assert cluster_mask[0, 1].all() and not cluster_mask[0, 0].all()


def test_rejects_bad_input(backend):
    probs, row_labels = inputs(1, 2, 9, 63, 3, 16, "cpu")
    with pytest.raises(ValueError, match="must be"):
        select(probs, row_labels[:, :1], 0.9, 0.1, backend=backend)
    with pytest.raises(ValueError, match=r"cluster_sizes \(1, 2, 5\) must be \(1, 2, 63\)"):
        select_clusters(probs, row_labels, torch.ones(1, 2, 5, dtype=torch.int32), 0.9, 0.1, backend=backend)
    for top_p, min_keep in ((0.0, 0.1), (1.1, 0.1), (0.9, -0.1), (0.9, 1.1)):
        with pytest.raises(ValueError, match="top_p="):
            select(probs, row_labels, top_p, min_keep, backend=backend)
