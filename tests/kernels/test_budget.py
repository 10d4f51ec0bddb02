"""budget: the highest scores of a head that its budget allows, and both backends bit for bit the same."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparse_videogen.kernels.budget import RESOLUTION, spend

# B, H, T, C
SHAPES = [
    pytest.param(1, 1, 1, 1, id="one-cell"),
    pytest.param(2, 3, 5, 63, id="batch"),
    pytest.param(1, 2, 37, 111, id="more-tiles-than-a-block"),
    pytest.param(1, 1, 3, 1500, id="more-columns-than-a-block"),
]


def inputs(b, h, tiles, clusters, device, seed=0, whole=False):
    """Scores over many octaves, or a few small whole numbers; some tiles have no rows and some clusters no keys."""
    rng = torch.Generator().manual_seed(seed)
    scores = (4 * torch.randn(b, h, tiles, clusters, generator=rng) - 9).exp()
    if whole:
        scores = torch.randint(4, scores.shape, generator=rng).float()
    rows = torch.randint(1, 129, (b, h, tiles), generator=rng, dtype=torch.int32)
    sizes = torch.randint(1, 200, (b, h, clusters), generator=rng, dtype=torch.int32)
    rows[..., 1::9], sizes[..., 1::9] = 0, 0
    return scores.to(device), rows.to(device), sizes.to(device)


def costs(rows, sizes):
    """Pairs of each cell, [B, H, T, C] int64."""
    return rows.long().unsqueeze(-1) * sizes.long().unsqueeze(2)


def part_of(rows, sizes, part):
    """A budget: this part of what all cells cost."""
    return (costs(rows, sizes).sum((-1, -2)).double() * part).long()


def assert_kept(scores, rows, sizes, budget, cluster_mask, count):
    """What the contract promises without `at_least_one`."""
    assert cluster_mask.dtype == torch.bool and cluster_mask.shape == scores.shape
    assert count.dtype == torch.int32 and torch.equal(count, (cluster_mask * sizes.unsqueeze(2)).sum(-1).int())
    cost, scores = costs(rows, sizes), torch.where(scores >= 0, scores, 0.0)
    assert not (cluster_mask & (cost == 0)).any()
    spent = (cluster_mask * cost).sum((-1, -2))
    assert (spent <= budget).all()
    eligible = cost > 0
    lowest = torch.where(cluster_mask, scores, torch.inf).amin((-1, -2), keepdim=True)
    highest = torch.where(eligible & ~cluster_mask, scores, -1.0).amax((-1, -2), keepdim=True)
    assert (
        (highest < lowest) | ~cluster_mask.any(-1).any(-1)[..., None, None]
    ).all()  # what is kept is all that reaches a threshold
    following = (cost * (eligible & ~cluster_mask & (scores == highest))).sum((-1, -2))
    left = budget - spent
    assert ((left * RESOLUTION <= budget) | (following > left) | (highest.flatten(2).amax(-1) < 0)).all()


@pytest.mark.parametrize("at_least_one", [False, True], ids=["budget-alone", "at-least-one"])
@pytest.mark.parametrize("whole", [False, True], ids=["many-scores", "equal-scores"])
@pytest.mark.parametrize("b, h, tiles, clusters", SHAPES)
def test_keeps_the_highest_and_equals_the_reference(b, h, tiles, clusters, whole, at_least_one, backend, device, poisoned):
    scores, rows, sizes = inputs(b, h, tiles, clusters, device, whole=whole)
    scores[..., 5::7] = float("nan")
    for part in (0.0, 0.001, 0.15, 0.9, 1.0):
        budget = part_of(rows, sizes, part)
        kept = spend(scores, rows, sizes, budget, at_least_one=at_least_one, backend=backend)
        for x, expected in zip(kept, spend(scores, rows, sizes, budget, at_least_one=at_least_one), strict=True):
            assert torch.equal(x, expected)
        if not at_least_one:
            assert_kept(scores, rows, sizes, budget, *kept)


@pytest.mark.parametrize("b, h, tiles, clusters", SHAPES)
def test_a_tile_that_would_read_nothing_reads_its_highest(b, h, tiles, clusters, backend, device, poisoned):
    scores, rows, sizes = inputs(b, h, tiles, clusters, device)
    budget = part_of(rows, sizes, 0.002)
    without, _ = spend(scores, rows, sizes, budget, backend=backend)
    cluster_mask, count = spend(scores, rows, sizes, budget, at_least_one=True, backend=backend)
    best = torch.where(costs(rows, sizes) > 0, scores, -1.0).argmax(-1, keepdim=True)
    alone = ~without.any(-1, keepdim=True) & (rows > 0).unsqueeze(-1)
    assert torch.equal(cluster_mask, without | (alone & torch.zeros_like(without).scatter(-1, best, True)))
    assert torch.equal(count > 0, rows > 0)


def test_of_equal_scores_the_first_and_what_is_no_number_is_as_0(backend, device):
    scores = torch.full((1, 1, 3, 1100), 2.0, device=device)
    scores[0, 0, 1, :1050], scores[0, 0, 2] = float("nan"), float("nan")
    rows, sizes = (torch.ones(1, 1, n, dtype=torch.int32, device=device) for n in (3, 1100))
    budget = torch.zeros(1, 1, dtype=torch.int64, device=device)
    cluster_mask, count = spend(scores, rows, sizes, budget, at_least_one=True, backend=backend)
    assert cluster_mask.nonzero()[:, 2:].tolist() == [[0, 0], [1, 1050], [2, 0]] and count.tolist() == [[[1, 1, 1]]]


def test_costs_beyond_32_bits(backend, device):
    scores = torch.tensor([[3.0, 2.0, 1.0]], device=device).expand(1, 1, 40, 3)
    rows = torch.full((1, 1, 40), 256, dtype=torch.int32, device=device)
    sizes = torch.full((1, 1, 3), 1 << 20, dtype=torch.int32, device=device)
    one = 40 * 256 << 20
    budget = torch.tensor([[2 * one]], device=device)
    for left, kept in ((0, [True, True, False]), (1, [True, False, False])):
        cluster_mask, _ = spend(scores, rows, sizes, budget - left, backend=backend)
        assert cluster_mask.tolist() == [[[kept] * 40]]


def test_memory_order_does_not_matter_and_random_state_stays(view, backend, device):
    scores, rows, sizes = inputs(2, 3, 5, 63, device)
    budget, random_state = part_of(rows, sizes, 0.2), torch.get_rng_state()
    expected = spend(scores, rows, sizes, budget, at_least_one=True, backend=backend)
    turned = (x.mT.contiguous().mT for x in (rows, sizes, budget))
    for x, y in zip(spend(view(scores), *turned, at_least_one=True, backend=backend), expected, strict=True):
        assert torch.equal(x, y)
    assert torch.equal(torch.get_rng_state(), random_state)


SCORES = st.one_of(st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("inf"), 1e-45]), st.floats(0, width=32, allow_nan=False))


@given(data=st.data(), tiles=st.integers(1, 4), clusters=st.integers(1, 6), parts=st.tuples(*[st.floats(0, 1.2)] * 2))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_scores(data, tiles, clusters, parts):
    """Kept as the contract says; a larger budget keeps what a smaller one does."""
    draw = lambda values, n: data.draw(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    scores = torch.tensor(draw(SCORES, tiles * clusters), dtype=torch.float32).view(1, 1, tiles, clusters)
    rows, sizes = (torch.tensor([[draw(st.integers(0, 128), n)]], dtype=torch.int32) for n in (tiles, clusters))
    masks = []
    for part in sorted(parts):
        budget = part_of(rows, sizes, part)
        kept = spend(scores, rows, sizes, budget)
        assert_kept(scores, rows, sizes, budget, *kept)
        masks.append(kept[0])
    assert not (masks[0] & ~masks[1]).any()


@given(seed=st.integers(0, 1 << 30), tiles=st.integers(1, 10), clusters=st.integers(1, 20), part=st.floats(0, 1.1))
@settings(max_examples=8, deadline=None)
def test_triton_equals_the_reference(seed, tiles, clusters, part):
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores, rows, sizes = inputs(1, 1, tiles, clusters, device, seed, whole=seed % 2 == 0)
    budget = part_of(rows, sizes, part)
    kernel = importlib.import_module("sparse_videogen.kernels.budget.triton_kernel")
    for at_least_one in (False, True):
        found = kernel.launch_spend(scores, rows, sizes, budget, at_least_one)
        for x, expected in zip(found, spend(scores, rows, sizes, budget, at_least_one=at_least_one), strict=True):
            assert torch.equal(x, expected)


def test_rejects_what_does_not_fit(backend):
    scores, rows, sizes = inputs(1, 2, 3, 5, "cpu")
    budget = part_of(rows, sizes, 0.5)
    for args, message in (
        ((rows[..., :2], sizes, budget), r"rows \(1, 2, 2\) must be \(1, 2, 3\)"),
        ((rows, sizes[..., :2], budget), r"cluster_sizes \(1, 2, 2\) must be \(1, 2, 5\)"),
        ((rows, sizes, budget[:, :1]), r"budget \(1, 1\) must be \(1, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            spend(scores, *args, backend=backend)
