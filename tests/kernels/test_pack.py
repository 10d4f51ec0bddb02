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


def inputs(sets, n, tiles, segments, share, device, seed=0):
    """A permutation cut into segments of any length, empty ones among them, of which a tile reads some."""
    rng = torch.Generator().manual_seed(seed)
    permutation = torch.stack([torch.randperm(n, generator=rng) for _ in range(sets)]).int()
    inner = torch.randint(0, n + 1, (sets, segments - 1), generator=rng).sort(-1).values
    bounds = torch.cat([torch.zeros(sets, 1), inner, torch.full((sets, 1), n)], 1).int()
    chosen = torch.rand(sets, tiles, segments, generator=rng) < share
    length = bounds.diff(dim=-1).unsqueeze(1) * chosen.int()
    return permutation.to(device), bounds[:, None, :-1].expand(-1, tiles, -1).to(device), length.to(device)


def plain(permutation, start, length):
    """Lists by slicing, [l][t] -> list of int."""
    return [
        [
            [token for s, n in zip(starts, lengths, strict=True) for token in row[s : s + n]]
            for starts, lengths in zip(tile_starts, tile_lengths, strict=True)
        ]
        for row, tile_starts, tile_lengths in zip(permutation.tolist(), start.tolist(), length.tolist(), strict=True)
    ]


def lists(index, count):
    assert index.dtype == count.dtype == torch.int32
    pairs = (zip(*row, strict=True) for row in zip(index.tolist(), count.tolist(), strict=True))
    return [[entries[:n] for entries, n in row] for row in pairs]


@pytest.mark.parametrize("capacity", [None, 1003], ids=["no-capacity", "capacity"])
@pytest.mark.parametrize("sets, n, tiles, segments, share", SHAPES)
def test_matches_plain_slicing(sets, n, tiles, segments, share, capacity, backend, device, poisoned):
    permutation, start, length = inputs(sets, n, tiles, segments, share, device)
    assert start.stride(1) == 0 or tiles == 1
    index, count = pack_lists(permutation, start, length, capacity=capacity, backend=backend)
    assert lists(index, count) == plain(permutation, start, length)
    assert index.shape[2] == (capacity or count.max())


def test_memory_order_does_not_matter(backend, device):
    arguments = inputs(2, 111, 3, 7, 0.5, device)
    turned = [x.mT.contiguous().mT for x in arguments]
    assert lists(*pack_lists(*turned, capacity=111, backend=backend)) == plain(*arguments)


@pytest.mark.parametrize("prefix", [0, 1, 130])
def test_kept_segments_after_a_prefix(prefix, backend, device, poisoned):
    """As SVG2 asks: lengths that all tiles share, and a prefix (the text) that each list begins with but an empty one."""
    permutation, start, length = inputs(2, 1000, 4, 70, 1.0, device)
    rng = torch.Generator().manual_seed(1)
    segment_mask = (torch.rand(2, 4, 70, generator=rng) < 0.3).to(device)
    segment_mask[:, 2] = False
    shared = length[:, :1].expand(-1, 4, -1)
    arguments = {"segment_mask": segment_mask, "prefix": prefix, "capacity": 1000 + prefix, "backend": backend}
    index, count = pack_lists(permutation, start, shared, **arguments)
    expected = plain(permutation, start, shared * segment_mask)
    front = permutation[:, :prefix].tolist()
    assert lists(index, count) == [
        [head + tile if tile else [] for tile in row] for head, row in zip(front, expected, strict=True)
    ]
    assert (count[:, 2] == 0).all()


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
    permutation, start, length = inputs(2, 111, 3, 7, 0.5, "cpu")
    for arguments in [(permutation[:1], start, length), (permutation, start[:, :2], length), (permutation[0], start, length)]:
        with pytest.raises(ValueError, match=r"must be \[L, N\]"):
            pack_lists(*arguments, backend=backend)
    with pytest.raises(ValueError, match=r"segment_mask \(2, 3, 6\) must be \(2, 3, 7\)"):
        pack_lists(permutation, start, length, segment_mask=torch.ones(2, 3, 6, dtype=torch.bool), backend=backend)
