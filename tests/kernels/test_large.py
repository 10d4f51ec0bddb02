"""Tensors of more than 2^31 elements: the last rows of the last head are reached, and nothing else is written.

The same code runs small anywhere, so that what a GPU meets is not its first run.
"""

from __future__ import annotations

import math

import pytest
import torch
from sparse_videogen.kernels.assign import assign
from sparse_videogen.kernels.assign.reference import assign as reference_assign
from sparse_videogen.kernels.centroids import centroids
from sparse_videogen.kernels.gather_attention import gather_attention, tile_rows
from sparse_videogen.kernels.gather_attention.reference import gather_attention as reference_attention
from sparse_videogen.kernels.pack import pack_lists, sort_by_label
from sparse_videogen.kernels.plan import Plan

pytest.importorskip("triton")
NEEDED_BYTES = 40 << 30
HEAD_DIM = 128
# Heads, tokens; a tensor of the large one has 2.2e9 elements.
SIZES = {"small": (3, 700), "beyond-2^31": (40, 430_000)}


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def size(request):
    if math.prod(request.param) * HEAD_DIM > 1 << 31:
        free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
        if free < NEEDED_BYTES:
            pytest.skip(f"needs a GPU with {NEEDED_BYTES >> 30} GiB of free memory")
    yield request.param
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture(params=["heads first", "tokens first"])
def make(request, size, device):
    """make(seed) -> [1, heads, tokens, HEAD_DIM] of whole numbers from -4 to 4, whose products and sums are exact."""
    heads, tokens = size

    def made(seed=0):
        shape = (1, heads, tokens) if request.param == "heads first" else (1, tokens, heads)
        x = torch.empty(*shape, HEAD_DIM, dtype=torch.float16, device=device)
        x.view(-1, HEAD_DIM).random_(-4, 5, generator=torch.Generator(device).manual_seed(seed))
        return x if request.param == "heads first" else x.transpose(1, 2)

    return made


def test_assign(make):
    x = make()
    labels = assign(x, x[:, :, :70].contiguous(), backend="triton")
    for head in (slice(0, 1), slice(-1, None)):
        for rows in (slice(0, 500), slice(-500, None)):
            part = x[:, head, rows].contiguous()
            assert torch.equal(labels[:, head, rows], reference_assign(part, x[:, head, :70], None))


def test_centroids(make, size):
    x, clusters = make(), 50
    labels = torch.arange(size[1], device=x.device, dtype=torch.int32).remainder(clusters).expand(1, size[0], -1).contiguous()
    result = centroids(x, sort_by_label(labels, clusters), variance=True, backend="triton")
    for head in (0, -1):
        for cluster in (0, clusters - 1):
            tokens = x[0, head, cluster::clusters].double()
            assert result.cluster_sizes[0, head, cluster] == len(tokens)
            torch.testing.assert_close(result.mean[0, head, cluster].double(), tokens.mean(0), atol=1e-5, rtol=0)
            variance = tokens.var(0, correction=0)
            torch.testing.assert_close(result.variance[0, head, cluster].double(), variance, atol=0, rtol=1e-4)


def test_gather_attention(make, size):
    (heads, tokens), (q, k, v) = size, (make(seed) for seed in range(3))
    block_m = tile_rows(HEAD_DIM, q.device, q.dtype)
    tiles, keys = -(-tokens // block_m), 100
    rows = torch.arange(tiles * block_m, dtype=torch.int32, device=q.device)
    rows = torch.where(rows < tokens, rows, -1).view(1, tiles, block_m)
    # Each tile reads keys spread over the whole video, the last ones among them, from a list of its own.
    read = (tokens - 1 - torch.arange(keys, device=q.device) * (tokens // keys)).int().repeat(tiles)
    start = torch.arange(tiles, device=q.device).view(1, tiles) * keys
    count = torch.full((1, tiles), keys, dtype=torch.int32, device=q.device)
    plan = Plan(torch.zeros(1, heads, dtype=torch.int32, device=q.device), rows, read, start, count)
    out = torch.full_like(q, float("nan"))
    gather_attention(q, k, v, plan, sm_scale=0.01, out=out, backend="triton")
    few = torch.tensor([0, tiles // 2, tiles - 1], device=q.device)
    part = Plan(plan.list_of_head[:, :1], rows[:, few], read, start[:, few], count[:, few])
    for head in (slice(0, 1), slice(-1, None)):
        expected = torch.full_like(q[:, head], float("nan"))
        reference_attention(q[:, head], k[:, head], v[:, head], part, 0.01, expected, None)
        written = part.query_index[part.query_index >= 0].long()
        torch.testing.assert_close(out[:, head, written], expected[:, :, written], atol=1e-2, rtol=1e-2)
    assert all(x.isfinite().all() for x in out.unbind(1))


def test_pack(size, device):
    """Lists of 2.2e9 entries: one set a head, as SVG2 has them."""
    (sets, tokens), segments = size, 8
    tiles = -(-tokens // 128)
    keys = 160 if tokens < 1000 else 16_384  # of each list
    length = torch.zeros(sets, tiles, segments, dtype=torch.int32, device=device)
    length[..., 1], length[..., -2] = keys // 4, keys - keys // 4
    start = torch.arange(segments, device=device).mul(tokens // segments).int().expand(sets, tiles, -1)
    order = torch.arange(tokens, device=device).int().flip(0).expand(sets, -1)
    count = length.sum(-1, dtype=torch.int32)
    index, key_start = pack_lists(order, start, length, count, capacity=sets * tiles * keys, backend="triton")
    first, second = (order[0, start[0, 0, s] :][: length[0, 0, s]] for s in (1, segments - 2))
    expected = torch.cat([first, second])
    for tile in ((0, 0), (sets // 2, tiles // 2), (sets - 1, tiles - 1)):
        assert torch.equal(index[key_start[tile] :][: len(expected)], expected)
