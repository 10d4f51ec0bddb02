"""pack: tokens by label, and lists against plain slicing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparse_videogen.kernels.pack import pack_lists, sort_by_label

# L, N, T, S, share of the segments that a tile reads
SHAPES = [
    pytest.param(1, 63, 1, 1, 1.0, id="one-segment"),
    pytest.param(2, 111, 3, 7, 0.5, id="small"),
    pytest.param(1, 1000, 4, 70, 0.25, id="many-segments"),
    pytest.param(2, 1000, 2, 5, 0.6, id="long-segments"),
    pytest.param(1, 111, 2, 20, 0.0, id="nothing-chosen"),
    pytest.param(1, 111, 2, 20, 1.0, id="all-chosen"),
]


def inputs(sets, n, tiles, segments, share, device):
    """A permutation cut into segments of any length, empty ones among them; of which a tile reads some, the last none."""
    rng = torch.Generator().manual_seed(0)
    permutation = torch.stack([torch.randperm(n, generator=rng) for _ in range(sets)]).int()
    inner = torch.randint(0, n + 1, (sets, segments - 1), generator=rng).sort(-1).values
    bounds = torch.cat([torch.zeros(sets, 1), inner, torch.full((sets, 1), n)], 1).int()
    chosen = torch.rand(sets, tiles, segments, generator=rng) < share
    chosen[:, -1] &= tiles == 1 or share == 1
    start, length = (x.unsqueeze(1).expand(-1, tiles, -1).to(device) for x in (bounds[:, :-1], bounds.diff(dim=-1)))
    return permutation.to(device), start, length, chosen.to(device)


def plain(permutation, start, length, prefix=0):
    """Lists by slicing, [l][t] -> list of int."""

    def one(row, starts, lengths):
        read = [token for s, n in zip(starts, lengths, strict=True) for token in row[s : s + n]]
        return row[:prefix] + read if read else []

    sets = zip(permutation.tolist(), start.tolist(), length.tolist(), strict=True)
    return [[one(row, *tile) for tile in zip(*tiles, strict=True)] for row, *tiles in sets]


def lists(index, count):
    assert index.dtype == count.dtype == torch.int32
    pairs = (zip(*row, strict=True) for row in zip(index.tolist(), count.tolist(), strict=True))
    return [[entries[:n] for entries, n in row] for row in pairs]


@pytest.mark.parametrize("capacity", [None, 1003], ids=["no-capacity", "capacity"])
@pytest.mark.parametrize("sets, n, tiles, segments, share", SHAPES)
def test_matches_plain_slicing(sets, n, tiles, segments, share, capacity, backend, device, poisoned):
    permutation, start, length, chosen = inputs(sets, n, tiles, segments, share, device)
    length = length * chosen
    assert start.stride(1) == 0 or tiles == 1
    index, count = pack_lists(permutation, start, length, capacity=capacity, backend=backend)
    assert lists(index, count) == plain(permutation, start, length)
    assert index.shape[2] == (capacity or count.max())


@pytest.mark.parametrize("prefix", [0, 1, 130])
@pytest.mark.parametrize("sets, n, tiles, segments, share", SHAPES)
def test_kept_segments_after_a_prefix(sets, n, tiles, segments, share, prefix, backend, device, poisoned):
    """As SVG2 asks: lengths that all tiles share, and a prefix (the text) that each list begins with but an empty one."""
    permutation, start, length, chosen = inputs(sets, n, tiles, segments, share, device)
    made = pack_lists(
        *(permutation, start, length), segment_mask=chosen, prefix=min(prefix, n), capacity=1000 + prefix, backend=backend
    )
    assert lists(*made) == plain(permutation, start, length * chosen, prefix)


def test_memory_order_does_not_matter(backend, device):
    permutation, start, length, chosen = inputs(2, 111, 3, 7, 0.5, device)
    *turned, mask = [x.mT.contiguous().mT for x in (permutation, start, length, chosen)]
    made = pack_lists(*turned, segment_mask=mask, capacity=111, backend=backend)
    assert lists(*made) == plain(permutation, start, length * chosen)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_any_lengths(lengths, seed, backend, device):
    rng = torch.Generator().manual_seed(seed)
    permutation = torch.randperm(40, generator=rng).int().view(1, -1).to(device)
    length = torch.tensor([lengths], dtype=torch.int32, device=device)
    start = torch.randint(0, 31, length.shape, generator=rng, dtype=torch.int32).to(device)
    assert lists(*pack_lists(permutation, start, length, capacity=40, backend=backend)) == plain(permutation, start, length)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=50))
def test_sort_by_label(labels, device):
    given = torch.tensor(labels, dtype=torch.int32, device=device).view(1, 1, -1)
    assignment = sort_by_label(given, 7)
    assert assignment.labels is given and assignment.cluster_sizes[0, 0].tolist() == [labels.count(label) for label in range(7)]
    _, permutation, offsets = assignment
    assert permutation.dtype == offsets.dtype == torch.int32
    permutation, offsets = permutation[0, 0].tolist(), offsets[0, 0].tolist()
    for label in range(7):
        members = permutation[offsets[label] : offsets[label + 1]]
        assert members == [token for token, its in enumerate(labels) if its == label]


def test_rejects_no_clusters():
    with pytest.raises(ValueError, match="n_clusters=0"):
        sort_by_label(torch.zeros(1, 1, 5, dtype=torch.int32), 0)


def test_rejects_bad_shapes(backend):
    permutation, start, length, _ = inputs(2, 111, 3, 7, 0.5, "cpu")
    for arguments in [(permutation[:1], start, length), (permutation, start[:, :2], length), (permutation[0], start, length)]:
        with pytest.raises(ValueError, match=r"must be \[L, N\]"):
            pack_lists(*arguments, backend=backend)
    with pytest.raises(ValueError, match=r"segment_mask \(2, 3, 6\) must be \(2, 3, 7\)"):
        pack_lists(permutation, start, length, segment_mask=torch.ones(2, 3, 6, dtype=torch.bool), backend=backend)
