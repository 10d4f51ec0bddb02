"""gather_attention: any plan, against float64 attention under the plan's mask."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from precision import product_eps
from sparse_videogen.kernels.gather_attention import gather_attention, tile_rows
from sparse_videogen.kernels.plan import SECOND_ORDER_CAP, Plan, Tail
from sparse_videogen.kernels.tile_configs import tile_config

# B, H, N, C, D, share of the clusters that a tile reads
SHAPES = [
    pytest.param(1, 1, 63, 5, 64, 0.5, id="small"),
    pytest.param(2, 2, 111, 9, 128, 0.3, id="batch"),
    pytest.param(1, 2, 300, 40, 64, 0.2, id="many-clusters"),
    pytest.param(1, 1, 300, 7, 128, 1.0, id="all-chosen"),
    pytest.param(1, 1, 257, 11, 64, 0.0, id="one-chosen"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def make(b, h, n, c, d, share, device, dtype=torch.float32, order=0, seed=0):
    """q, k, v, and a plan over random clusters: one stays empty, each tile reads `share` of them, one at least."""
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, h, n, d, generator=rng).to(dtype) for _ in range(3))
    labels = torch.randint(c - 1, (b * h, n), generator=rng)
    block_m = tile_rows(d, device, dtype)
    tiles = -(-n // block_m) + 1  # the last one has no rows
    cluster_mask = torch.rand(b * h, tiles, c, generator=rng) < share
    cluster_mask[..., 0] = True
    cluster_mask[:, -1] = False
    query_index = torch.full((b * h, tiles * block_m), -1, dtype=torch.int32)
    query_index[:, :n] = torch.stack([torch.randperm(n, generator=rng) for _ in range(b * h)])
    query_index = query_index.view(b * h, tiles, block_m)
    reads = cluster_mask.gather(2, labels.unsqueeze(1).expand(-1, tiles, -1))
    count = reads.sum(-1, dtype=torch.int32)
    key_index = torch.full((b * h, tiles, n), 1 << 30, dtype=torch.int32)  # beyond a list's end: never to be read
    for s in range(b * h):
        for t in range(tiles):
            key_index[s, t, : count[s, t]] = reads[s, t].nonzero().squeeze(1)[torch.randperm(count[s, t], generator=rng)]
    tail = None
    if order:
        x, y = k.double().flatten(0, 1), v.double().flatten(0, 1)
        one_hot = F.one_hot(labels, c).double()
        size = one_hot.sum(1)
        mean, value = (one_hot.mT @ z / size.clamp(min=1).unsqueeze(-1) for z in (x, y))
        variance = one_hot.mT @ (x - mean.gather(1, labels.unsqueeze(-1).expand(-1, -1, d))).square()
        variance = (variance / size.clamp(min=1).unsqueeze(-1)) if order == 2 else None
        heads = [None if z is None else z.view(b, h, c, d).to(device, dtype) for z in (mean, variance, value)]
        tail = Tail(*heads, size.float().log().view(b, h, c).to(device), cluster_mask.to(device))
    sets = torch.arange(b * h, dtype=torch.int32).view(b, h)
    plan = Plan(*(x.to(device) for x in (sets, query_index, key_index, count)), tail)
    return *(x.to(device) for x in (q, k, v)), plan


def exact(q, k, v, plan, sm_scale):
    """float64 result [B, H, N, D] and logsumexp [B, H, N], row by row as the contract says."""
    q, k, v = (x.double() for x in (q, k, v))
    out, lse = torch.zeros_like(q), q.new_zeros(q.shape[:3])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            s = int(plan.list_of_head[b, h])
            for t in range(plan.query_index.shape[1]):
                rows = plan.query_index[s, t]
                rows = rows[rows >= 0].long()
                keys = plan.key_index[s, t, : plan.key_count[s, t]].long()
                logits, values = sm_scale * q[b, h, rows] @ k[b, h, keys].T, v[b, h, keys]
                if plan.tail is not None and len(rows):
                    tail = plan.tail
                    skipped = (~tail.cluster_mask[s, t] & (tail.log_size[b, h] >= 0)).nonzero().squeeze(1)
                    more = sm_scale * q[b, h, rows] @ tail.k_mean[b, h, skipped].double().T
                    more += tail.log_size[b, h, skipped].double()
                    if tail.k_variance is not None:
                        spread = q[b, h, rows].square() @ tail.k_variance[b, h, skipped].double().T
                        more += (0.5 * sm_scale**2 * spread).clamp(max=SECOND_ORDER_CAP)
                    logits, values = torch.cat([logits, more], 1), torch.cat([values, tail.v_mean[b, h, skipped].double()])
                if len(rows):
                    out[b, h, rows] = logits.softmax(-1) @ values
                    lse[b, h, rows] = logits.logsumexp(-1)
    return out, lse


def tolerance(q, k, v, dtype, eps=None):
    """Twice torch's own error of dense attention in this dtype, and 4 roundings at the size of the values."""
    dense = F.scaled_dot_product_attention(q, k, v).double()
    error = (dense - F.scaled_dot_product_attention(q.double(), k.double(), v.double())).abs().max()
    return 2 * error + 4 * (eps or torch.finfo(dtype).eps) * v.double().abs().max()


@pytest.mark.parametrize("order", [0, 1, 2], ids=["no-tail", "zero-order", "second-order"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("b, h, n, c, d, share", SHAPES)
def test_matches_float64(b, h, n, c, d, share, dtype, order, backend, device, multiplies, poisoned):
    multiplies(dtype)
    q, k, v, plan = make(b, h, n, c, d, share, device, dtype, order)
    lse = torch.full((b, h, n), float("nan"), device=device)
    out = gather_attention(q, k, v, plan, sm_scale=d**-0.5, lse=lse, backend=backend)
    expected, expected_lse = exact(q, k, v, plan, d**-0.5)
    eps = product_eps(dtype, backend, device)
    assert out.dtype == dtype
    assert (out.double() - expected).abs().max() <= tolerance(q, k, v, dtype, eps)
    exact_products = eps == torch.finfo(torch.float32).eps
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-5 if exact_products else 4e-3, rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2], ids=["zero-order", "second-order"])
@pytest.mark.parametrize("knobs", [{"tail_apart": True}, {"spread_d": 64}, {"spread_d": 16, "block_n": 16}], ids=str)
@pytest.mark.parametrize("b, h, n, c, d, share", SHAPES)
def test_any_config_gives_the_same(b, h, n, c, d, share, knobs, order, device, monkeypatch, poisoned):
    """Whatever the table says: the tail in one launch with the lists or after them, products cut or whole."""
    kernel = pytest.importorskip("sparse_videogen.kernels.gather_attention.triton_kernel")
    config = replace(tile_config("gather_attention", d, device, torch.float16), **knobs)
    monkeypatch.setattr(kernel, "tile_config", lambda *_: config)
    q, k, v, plan = make(b, h, n, c, d, share, device, torch.float16, order)
    expected, expected_lse = exact(q, k, v, plan, d**-0.5)
    for lse in (None, torch.full((b, h, n), float("nan"), device=device)):
        out = gather_attention(q, k, v, plan, sm_scale=d**-0.5, lse=lse, backend="triton")
        assert (out.double() - expected).abs().max() <= tolerance(q, k, v, torch.float16)
    torch.testing.assert_close(lse.double(), expected_lse, atol=4e-3, rtol=1e-5)


def test_a_tile_may_read_nothing_but_its_tail(backend, device, monkeypatch):
    """As where the lists come first and the tail after them: the first pass has nothing to divide by."""
    q, k, v, plan = make(1, 2, 63, 5, 64, 0.5, device, torch.float16, 2)
    nothing = replace(plan.tail, cluster_mask=torch.zeros_like(plan.tail.cluster_mask))
    plan = replace(plan, key_count=torch.zeros_like(plan.key_count), tail=nothing)
    expected, _ = exact(q, k, v, plan, 0.125)
    if backend == "triton":
        kernel = pytest.importorskip("sparse_videogen.kernels.gather_attention.triton_kernel")
        config = replace(tile_config("gather_attention", 64, device, torch.float16), tail_apart=True)
        monkeypatch.setattr(kernel, "tile_config", lambda *_: config)
    out = gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend)
    assert (out.double() - expected).abs().max() <= tolerance(q, k, v, torch.float16)


@pytest.mark.parametrize("apart", [False, True], ids=["one launch", "apart"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_no_number_shows_beside_a_tail(bad, apart, backend, device, monkeypatch):
    """A key in no cluster, as the text's are: the tail alone would be finite."""
    q, k, v, plan = make(1, 2, 63, 5, 64, 0.5, device, torch.float16, 2)
    if backend == "triton":
        kernel = pytest.importorskip("sparse_videogen.kernels.gather_attention.triton_kernel")
        config = replace(tile_config("gather_attention", 64, device, torch.float16), tail_apart=apart)
        monkeypatch.setattr(kernel, "tile_config", lambda *_: config)
    k[0, 0, plan.key_index[0, 0, 0]] = bad
    out = gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend)
    rows = plan.query_index[0, 0][plan.query_index[0, 0] >= 0]
    assert not out[0, 0, rows].isfinite().all(-1).any() and out[0, 1].isfinite().all()


def test_one_list_for_all_is_dense_attention(backend, device):
    n, d = 200, 64
    q, k, v, plan = make(2, 3, n, 4, d, 1.0, device)
    shared = Plan(torch.zeros(2, 3, dtype=torch.int32, device=device), *(
        x[:1] for x in (plan.query_index, plan.key_index, plan.key_count)
    ))  # fmt: skip
    out = gather_attention(q, k, v, shared, sm_scale=0.1, backend=backend)
    atol = max(1e-5, 4 * product_eps(q.dtype, backend, device))
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, scale=0.1), atol=atol, rtol=1e-4)
    assert (shared.pairs() / n**2).tolist() == [[1.0] * 3] * 2


def test_memory_order_does_not_matter(view, backend, device):
    q, k, v, plan = make(2, 3, 111, 9, 64, 0.4, device, torch.float16, 2)
    expected = gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend)
    out = torch.full_like(q, float("nan"))
    gather_attention(view(q), view(k), view(v), plan, sm_scale=0.125, out=view(out), backend=backend)
    same = gather_attention(view(q), view(k), view(v), plan, sm_scale=0.125, backend=backend)
    assert torch.equal(same, expected)


def test_writes_to_a_view_at_its_own_place(backend, device):
    q, k, v, plan = make(1, 2, 111, 9, 64, 0.4, device)
    target = torch.full((1, 111, 4, 64), 7.0, device=device).transpose(1, 2)
    out = gather_attention(q, k, v, plan, sm_scale=0.125, out=target[:, 1:3], backend=backend)
    assert torch.equal(out, gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend))
    assert (target[:, [0, 3]] == 7).all()


def test_two_runs_are_equal(backend, device):
    q, k, v, plan = make(1, 2, 300, 40, 64, 0.2, device, order=2)
    first, second = (gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend) for _ in range(2))
    assert torch.equal(first, second)


def test_tail_of_single_tokens_is_dense_attention(backend, device):
    """Clusters of one token each lose nothing in the tail, whatever is read exactly."""
    n, d = 120, 64
    q, k, v, _ = make(1, 1, n, 3, d, 1.0, device)
    block_m = tile_rows(d, device, q.dtype)
    rows = torch.full((1, 1, block_m), -1, dtype=torch.int32)
    rows[0, 0, :n] = torch.arange(n)
    cluster_mask = (torch.arange(n) % 3 == 0).view(1, 1, n)
    keys = cluster_mask[0, 0].nonzero().view(1, 1, -1).int()
    log_size = torch.zeros(1, 1, n, device=device)
    plan = Plan(
        *(x.to(device) for x in (torch.zeros(1, 1, dtype=torch.int32), rows, keys, torch.tensor([[40]], dtype=torch.int32))),
        Tail(k, torch.zeros_like(k), v, log_size, cluster_mask.to(device)),
    )
    out = gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend)
    atol = max(1e-5, 4 * product_eps(q.dtype, backend, device))
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v), atol=atol, rtol=1e-4)


def test_large_logits_do_not_overflow(backend, device):
    q, k, v, plan = make(1, 1, 111, 9, 64, 0.4, device, torch.float16, 2)
    out = gather_attention(20 * q, 20 * k, v, plan, sm_scale=0.125, backend=backend)
    expected, _ = exact(20 * q, 20 * k, v, plan, 0.125)
    assert out.isfinite().all() and (out.double() - expected).abs().max() < 0.05


def test_work_counts_pairs_and_padding():
    rows = torch.full((1, 2, 4), -1, dtype=torch.int32)
    rows[0, 0], rows[0, 1, 0] = torch.arange(4), 4
    plan = Plan(torch.zeros(1, 1, dtype=torch.int32), rows, torch.zeros(1, 2, 5, dtype=torch.int32), torch.tensor([[3, 5]]))
    assert plan.pairs().item() == 4 * 3 + 1 * 5
    assert plan.pairs(4, 4).item() == 4 * 4 + 4 * 8


BAD = {
    "shapes": (lambda q, k, v, plan: (q, k[:, :, :-1], v, plan), r"k \(1, 2, 62, 64\)"),
    "dtypes": (lambda q, k, v, plan: (q, k.half(), v, plan), "torch.float16"),
    "heads": (lambda q, k, v, plan: (q[:, :1], k[:, :1], v[:, :1], plan), r"heads \(1, 2\), q has \(1, 1\)"),
    "devices": (lambda q, k, v, plan: (q.to("meta"), k, v, plan), "meta"),
    "head_dim": (lambda q, k, v, plan: (q[..., :48], k[..., :48], v[..., :48], plan), "head_dim 48"),
    "row out of range": (lambda q, k, v, plan: (*(x[:, :, :40].contiguous() for x in (q, k, v)), plan), "62.*0 to 39"),
}


@pytest.mark.parametrize("spoil, message", BAD.values(), ids=BAD.keys())
def test_rejects_what_does_not_fit(spoil, message, device):
    q, k, v, plan = spoil(*make(1, 2, 63, 5, 64, 0.5, device))
    with pytest.raises(ValueError, match=message):
        gather_attention(q, k, v, plan, sm_scale=0.125)


def test_softmax_scale_is_base_e(backend, device):
    q, k, v, plan = make(1, 1, 63, 5, 64, 1.0, device)
    lse = torch.empty(1, 1, 63, device=device)
    gather_attention(torch.zeros_like(q), k, v, plan, sm_scale=1.0, lse=lse, backend=backend)
    torch.testing.assert_close(lse, torch.full_like(lse, math.log(63)))
