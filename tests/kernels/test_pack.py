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


def count_of(length, chosen=True, prefix=0):
    """Length of each list, [L, T] int32."""
    total = (length * chosen).sum(-1, dtype=torch.int32)
    return torch.where(total > 0, total + prefix, 0)


def lists(index, start, count):
    """As `plain` gives them; every list must begin where the one before it ends."""
    assert index.dtype == torch.int32 and start.dtype == torch.int64
    assert start.flatten().tolist() == [0, *count.flatten().cumsum(0).tolist()][:-1]
    rows = (zip(*row, strict=True) for row in zip(start.tolist(), count.tolist(), strict=True))
    return [[index[first:][:n].tolist() for first, n in row] for row in rows]


@pytest.mark.parametrize("capacity", [None, 7003], ids=["no-capacity", "capacity"])
@pytest.mark.parametrize("sets, n, tiles, segments, share", SHAPES)
def test_matches_plain_slicing(sets, n, tiles, segments, share, capacity, backend, device, poisoned):
    permutation, start, length, chosen = inputs(sets, n, tiles, segments, share, device)
    length = length * chosen
    assert start.stride(1) == 0 or tiles == 1
    count = count_of(length)
    index, key_start = pack_lists(permutation, start, length, count, capacity=capacity, backend=backend)
    assert lists(index, key_start, count) == plain(permutation, start, length)
    assert index.shape == (capacity or count.sum(),)


@pytest.mark.parametrize("prefix", [0, 1, 130])
@pytest.mark.parametrize("sets, n, tiles, segments, share", SHAPES)
def test_kept_segments_after_a_prefix(sets, n, tiles, segments, share, prefix, backend, device, poisoned):
    """As SVG2 asks: lengths that all tiles share, and a prefix (the text) that each list begins with but an empty one."""
    permutation, start, length, chosen = inputs(sets, n, tiles, segments, share, device)
    prefix = min(prefix, n)
    count = count_of(length, chosen, prefix)
    made = pack_lists(permutation, start, length, count, segment_mask=chosen, prefix=prefix, capacity=7000, backend=backend)
    assert lists(*made, count) == plain(permutation, start, length * chosen, prefix)


def test_memory_order_does_not_matter(backend, device):
    permutation, start, length, chosen = inputs(2, 111, 3, 7, 0.5, device)
    count = count_of(length, chosen)
    *turned, mask = [x.mT.contiguous().mT for x in (permutation, start, length, count, chosen)]
    made = pack_lists(*turned, segment_mask=mask, capacity=700, backend=backend)
    assert lists(*made, count) == plain(permutation, start, length * chosen)


@pytest.mark.parametrize("prefix", [0, 40])
@pytest.mark.parametrize("capacity", [0, 1, 100, 300, 700])
def test_writes_nothing_beyond_the_capacity(capacity, prefix, backend, device, monkeypatch):
    """Lists that find no room are not there; those before them are whole."""
    permutation, start, length, chosen = inputs(2, 111, 3, 7, 0.9, device)
    around, empty = torch.full((capacity + 2000,), -7, dtype=torch.int32, device=device), torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: around[1000:-1000] if a == (capacity,) else empty(*a, **k))
    count = count_of(length, chosen, prefix)
    assert count.sum() > 300
    index, key_start = pack_lists(
        permutation, start, length, count, segment_mask=chosen, prefix=prefix, capacity=capacity, backend=backend
    )
    assert index.shape == (capacity,) and (around[:1000] == -7).all() and (around[len(around) - 1000 :] == -7).all()
    expected = plain(permutation, start, length * chosen, prefix)
    whole = [(row, tile) for row, tile in (key_start + count <= capacity).nonzero().tolist()]
    found = lists(index, key_start, count)
    assert all(found[row][tile] == expected[row][tile] for row, tile in whole)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_any_lengths(lengths, seed, backend, device):
    rng = torch.Generator().manual_seed(seed)
    permutation = torch.randperm(40, generator=rng).int().view(1, -1).to(device)
    length = torch.tensor([lengths], dtype=torch.int32, device=device)
    start = torch.randint(0, 31, length.shape, generator=rng, dtype=torch.int32).to(device)
    made = pack_lists(permutation, start, length, count_of(length), capacity=200, backend=backend)
    assert lists(*made, count_of(length)) == plain(permutation, start, length)


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
    count = count_of(length)
    for arguments in [(permutation[:1], start, length), (permutation, start[:, :2], length), (permutation[0], start, length)]:
        with pytest.raises(ValueError, match=r"must be \[L, N\]"):
            pack_lists(*arguments, count, backend=backend)
    with pytest.raises(ValueError, match=r"count \(2, 2\) must be \(2, 3\)"):
        pack_lists(permutation, start, length, count[:, :2], backend=backend)
    with pytest.raises(ValueError, match=r"segment_mask \(2, 3, 6\) must be \(2, 3, 7\)"):
        pack_lists(permutation, start, length, count, segment_mask=torch.ones(2, 3, 6, dtype=torch.bool), backend=backend)
