"""gather_attention: any plan, against float64 attention under the plan's mask."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from masks import plan_mask
from precision import product_eps
from sparse_videogen.kernels.gather_attention import gather_attention, tile_rows
from sparse_videogen.kernels.plan import SECOND_ORDER_CAP, Plan, Tail
from sparse_videogen.kernels.precision import PRECISIONS
from sparse_videogen.kernels.quantise import measure_channels, quantise
from sparse_videogen.kernels.tile_configs import tile_config

# B, H, N, C, D, share of the clusters that a tile reads
SHAPES = [
    pytest.param(1, 1, 63, 5, 64, 0.5, id="small"),
    pytest.param(2, 2, 111, 9, 128, 0.3, id="batch"),
    pytest.param(1, 2, 300, 40, 64, 0.2, id="many-clusters"),
    pytest.param(1, 1, 300, 7, 128, 1.0, id="all-chosen"),
    pytest.param(1, 1, 257, 11, 64, 0.0, id="one-chosen"),
]


def make(b, h, n, c, d, share, device, dtype=torch.float32, order=0):
    """q, k, v, and a plan over random clusters: one stays empty, each tile reads `share` of them, one at least."""
    rng = torch.Generator().manual_seed(0)
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
    order_of_keys = torch.rand(reads.shape, generator=rng).masked_fill(~reads, 2).argsort(-1).int()
    beyond = torch.arange(n) >= count.unsqueeze(-1)
    key_index = order_of_keys.masked_fill(beyond, 1 << 30).flatten()  # between two lists: never to be read
    key_start = torch.arange(count.numel()).view_as(count) * n
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
    plan = Plan(*(x.to(device) for x in (sets, query_index, key_index, key_start, count)), tail)
    return *(x.to(device) for x in (q, k, v)), plan


def exact(q, k, v, plan, sm_scale, logits=None):
    """float64 result [B, H, N, D] and logsumexp [B, H, N], as the contract says, of all keys and clusters at once.

    With `logits` [B, H, N, N] these are the keys'.
    """
    (q, k, v), n, tail = (x.double() for x in (q, k, v)), q.shape[2], plan.tail
    logits = sm_scale * q @ k.mT if logits is None else logits
    logits = logits.masked_fill(~plan_mask([plan], n), -math.inf)
    if tail is not None:
        more = sm_scale * q @ tail.k_mean.double().mT + tail.log_size.double().unsqueeze(2)
        if tail.k_variance is not None:
            spread = q.square() @ tail.k_variance.double().mT
            more += (0.5 * sm_scale**2 * spread).clamp(max=SECOND_ORDER_CAP)
        mask_of_row = tail.cluster_mask.repeat_interleave(plan.query_index.shape[2], 1)
        rows = plan.query_index.flatten(1).long().remainder(n + 1).unsqueeze(-1)  # what is no row goes to a row of its own
        read = mask_of_row.new_zeros(len(rows), n + 1, more.shape[3]).scatter_(1, rows.expand_as(mask_of_row), mask_of_row)
        more = more.masked_fill(read[plan.list_of_head.long(), :n], -math.inf)
        logits, v = torch.cat([logits, more], -1), torch.cat([v, tail.v_mean.double()], 2)
    return logits.softmax(-1) @ v, logits.logsumexp(-1)


def assert_exact(q, k, v, plan, backend, with_lse, precision="16 bit"):
    """At most twice torch's own error of dense attention in this dtype, and 4 roundings at the size of the values."""
    sm_scale, eps = q.shape[3] ** -0.5, product_eps(q.dtype, backend, q.device)
    lse = torch.full(q.shape[:3], float("nan"), device=q.device) if with_lse else None
    out = gather_attention(q, k, v, plan, sm_scale=sm_scale, lse=lse, backend=backend, precision=precision)
    expected, expected_lse = exact(q, k, v, plan, sm_scale)
    dense = F.scaled_dot_product_attention(q, k, v).double()
    torch_error = (dense - F.scaled_dot_product_attention(q.double(), k.double(), v.double())).abs().max()
    assert out.dtype == q.dtype
    assert (out.double() - expected).abs().max() <= 2 * torch_error + 4 * eps * v.double().abs().max()
    if with_lse:
        exact_products = eps == torch.finfo(torch.float32).eps
        torch.testing.assert_close(lse.double(), expected_lse, atol=1e-5 if exact_products else 4e-3, rtol=1e-5)


def quantised_exact(q, k, v, plan, sm_scale, values):
    """As `exact`, where queries, keys and values are what they are in few bits, and nothing else is rounded."""
    made = quantise(q, k, v, measure_channels(q, k, v, values), sm_scale=sm_scale, values=values)
    _, q_mean, k_mean, v_scale, v_mean = (x.double().unsqueeze(2) for x in made.channels.unbind())
    queries = made.q8.double() * made.q_terms[..., :1].double() * math.log(2)
    logits = queries @ (made.k8.double() * made.k_terms[..., :1].double()).mT
    logits += sm_scale * (q_mean @ (k.double() - k_mean).mT + q.double() @ k_mean.mT)
    return *exact(q, k, made.v8.double() * v_scale + v_mean, plan, sm_scale, logits), made


def set_values(monkeypatch, precision, values):
    """Both the contract and the kernel take this dtype for the values in few bits."""
    for name in ("", ".triton_kernel"):
        module = pytest.importorskip(f"sparse_videogen.kernels.gather_attention{name}")

        def with_values(*args, own=module.tile_config, **more):
            found = own(*args, **more)
            return replace(found, values=values) if precision in (*args, *more.values()) else found

        monkeypatch.setattr(module, "tile_config", with_values)


def configure(monkeypatch, head_dim, device, **knobs):
    """Triton's config for float16 is the table's but for these knobs."""
    kernel = pytest.importorskip("sparse_videogen.kernels.gather_attention.triton_kernel")
    config = replace(tile_config("gather_attention", head_dim, device, torch.float16), **knobs)
    own = kernel.tile_config
    monkeypatch.setattr(kernel, "tile_config", lambda *args, **few: own(*args, **few) if few else config)


@pytest.mark.parametrize("order", [0, 1, 2], ids=["no-tail", "zero-order", "second-order"])
@pytest.mark.parametrize("b, h, n, c, d, share", SHAPES)
def test_matches_float64(b, h, n, c, d, share, product_dtype, order, backend, device, poisoned):
    assert_exact(*make(b, h, n, c, d, share, device, product_dtype, order), backend, with_lse=True)


@pytest.mark.parametrize("values", [None, "float16", "float8_e4m3fn"], ids=str)
@pytest.mark.parametrize("order", [0, 1, 2], ids=["no-tail", "zero-order", "second-order"])
@pytest.mark.parametrize("b, h, n, c, d, share", SHAPES)
def test_few_bits_are_all_that_is_lost(b, h, n, c, d, share, order, values, backend, device, monkeypatch, poisoned):
    """Beside what quantising does to queries, keys and values, only the weights are rounded, and sums where they are short."""
    q, k, v, plan = make(b, h, n, c, d, share, device, torch.float16, order)
    precision = "8 bit" if values == "float8_e4m3fn" else "int8"
    set_values(monkeypatch, precision, values)
    q, k, v, sm_scale = 1.5 * q + 0.5, k - 1, v + 0.5, d**-0.5
    lse = torch.full(q.shape[:3], float("nan"), device=device)
    out = gather_attention(q, k, v, plan, sm_scale=sm_scale, lse=lse, backend=backend, precision=precision)
    expected, expected_lse, made = quantised_exact(q, k, v, plan, sm_scale, values and getattr(torch, values))
    torch.testing.assert_close(lse.double(), expected_lse, atol=4e-3, rtol=1e-5)
    error, spread = (out.double() - expected).abs(), v.float().std(dim=2).amax().item()
    eps, largest = torch.finfo(torch.float16).eps, v.double().abs().max()
    # Each weight by half a step of e4m3 at most: together far less, except where a row has few keys.
    few = 2**-4 * (made.v8.double().abs().amax(2) * made.channels.unbind()[3]).amax() if values == "float8_e4m3fn" else 0.0
    assert error.max() <= few + 8 * eps * largest
    assert values != "float8_e4m3fn" or error.square().mean().sqrt() <= 0.02 * spread


@pytest.mark.parametrize("precision", ["int8", "8 bit"])
def test_few_bits_in_any_memory_order(precision, view, backend, device):
    q, k, v, plan = make(2, 3, 111, 9, 64, 0.4, device, torch.float16, 2)
    call = {"sm_scale": 0.125, "backend": backend, "precision": precision}
    expected = gather_attention(q, k, v, plan, **call)
    out = view(torch.full_like(q, float("nan")))
    assert gather_attention(view(q), view(k), view(v), plan, **call, out=out) is out
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=0)  # sums for the means may differ in their order


@pytest.mark.parametrize("values", [None, "float16", "float8_e4m3fn"], ids=str)
def test_sums_of_a_tile_do_not_overflow(values, backend, device, monkeypatch):
    """Whose every key weighs as much, and has values near the end of float16."""
    q, k, v, plan = make(1, 2, 111, 9, 64, 1.0, device, torch.float16)
    precision = "8 bit" if values == "float8_e4m3fn" else "int8"
    set_values(monkeypatch, precision, values)
    v = 3e4 + 1e4 * v.clamp(-3, 3)
    out = gather_attention(0 * q, k, v, plan, sm_scale=0.125, backend=backend, precision=precision)
    torch.testing.assert_close(out.double(), v.double().mean(2, keepdim=True).expand_as(out), atol=0, rtol=4e-3)


@pytest.mark.parametrize("precision", ["int8", "8 bit"])
def test_few_bits_of_what_is_no_number_or_far_too_large(precision, backend, device):
    q, k, v, plan = make(1, 2, 63, 5, 64, 0.5, device, torch.float16, 2)
    call = {"sm_scale": 0.125, "backend": backend, "precision": precision}
    assert gather_attention(200 * q, 200 * k, 1000 * v, plan, **call).isfinite().all()
    assert gather_attention(0 * q, 0 * k, 0 * v, replace(plan, tail=None), **call).abs().max() == 0
    k[0, 0, plan.key_index[plan.key_start[0, 0]]] = float("nan")
    out = gather_attention(q, k, v, plan, **call)
    rows = plan.query_index[0, 0][plan.query_index[0, 0] >= 0]
    assert not out[0, 0, rows].isfinite().all(-1).any() and out[0, 1].isfinite().all()


@pytest.mark.parametrize("order", [1, 2], ids=["zero-order", "second-order"])
@pytest.mark.parametrize("knobs", [{"tail_apart": True}, {"spread_d": 64}, {"spread_d": 16, "block_n": 16}], ids=str)
@pytest.mark.parametrize("b, h, n, c, d, share", SHAPES)
def test_any_config_gives_the_same(b, h, n, c, d, share, knobs, order, device, monkeypatch, poisoned):
    """Whatever the table says: the tail in one launch with the lists or after them, products cut or whole."""
    configure(monkeypatch, d, device, **knobs)
    for with_lse in (False, True):
        assert_exact(*make(b, h, n, c, d, share, device, torch.float16, order), "triton", with_lse)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tile_may_read_nothing_but_its_tail(precision, backend, device, monkeypatch):
    """As where the lists come first and the tail after them: the first pass has nothing to divide by."""
    q, k, v, plan = make(1, 2, 63, 5, 64, 0.5, device, torch.float16, 2)
    nothing = replace(plan.tail, cluster_mask=torch.zeros_like(plan.tail.cluster_mask))
    plan = replace(plan, key_count=torch.zeros_like(plan.key_count), tail=nothing)
    if backend == "triton":
        configure(monkeypatch, 64, device, tail_apart=True)
    assert_exact(q, k, v, plan, backend, with_lse=False, precision=precision)


@pytest.mark.parametrize("apart", [False, True], ids=["one launch", "apart"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_no_number_shows_beside_a_tail(bad, apart, backend, device, monkeypatch):
    """A key in no cluster, as the text's are: the tail alone would be finite."""
    q, k, v, plan = make(1, 2, 63, 5, 64, 0.5, device, torch.float16, 2)
    if backend == "triton":
        configure(monkeypatch, 64, device, tail_apart=apart)
    k[0, 0, plan.key_index[plan.key_start[0, 0]]] = bad
    out = gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend)
    rows = plan.query_index[0, 0][plan.query_index[0, 0] >= 0]
    assert not out[0, 0, rows].isfinite().all(-1).any() and out[0, 1].isfinite().all()


def test_one_list_for_all_is_dense_attention(backend, device):
    n, d = 200, 64
    q, k, v, plan = make(2, 3, n, 4, d, 1.0, device)
    shared = replace(plan, list_of_head=torch.zeros_like(plan.list_of_head))
    out = gather_attention(q, k, v, shared, sm_scale=0.1, backend=backend)
    atol = max(1e-5, 4 * product_eps(q.dtype, backend, device))
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, scale=0.1), atol=atol, rtol=1e-4)
    assert (shared.pairs() / n**2).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("order", [1, 2], ids=["zero-order", "second-order"])
@pytest.mark.parametrize("apart", [False, True], ids=["one launch", "apart"])
def test_batch_elements_share_lists_and_have_tails_of_their_own(apart, order, backend, device, monkeypatch):
    """As cond and uncond may: which clusters a tile reads is of the list set, means and sizes are of the head."""
    q, k, v, plan = make(2, 3, 300, 9, 64, 0.4, device, torch.float16, order)
    if backend == "triton":
        configure(monkeypatch, 64, device, tail_apart=apart)
    tail = replace(plan.tail, cluster_mask=plan.tail.cluster_mask[:3])
    assert not torch.equal(tail.log_size[0], tail.log_size[1])
    firsts = {name: getattr(plan, name)[:3] for name in ("query_index", "key_start", "key_count")}
    shared = replace(plan, list_of_head=plan.list_of_head[:1].expand(2, -1), tail=tail, **firsts)
    assert_exact(q, k, v, shared, backend, with_lse=True)


def test_lists_may_lie_anywhere(backend, device):
    """End to end in any order, at any alignment; and tiles that read the same keys share one list."""
    q, k, v, plan = make(2, 2, 300, 9, 64, 0.4, device, torch.float16, 2)
    expected = gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend)
    starts, counts = plan.key_start.flatten().tolist(), plan.key_count.flatten().tolist()
    lists, start, where = [torch.full((3,), 1 << 30, dtype=torch.int32, device=device)], {}, 3
    for tile in torch.randperm(len(counts), generator=torch.Generator().manual_seed(0)).tolist():
        lists.append(plan.key_index[starts[tile] :][: counts[tile]])
        start[tile], where = where, where + counts[tile]
    assert any(first % 4 for first in start.values())
    key_start = torch.tensor([start[tile] for tile in range(len(counts))], device=device).view_as(plan.key_start)
    packed = replace(plan, key_index=torch.cat(lists), key_start=key_start)
    assert torch.equal(gather_attention(q, k, v, packed, sm_scale=0.125, backend=backend), expected)
    packed = replace(plan, key_index=torch.cat(lists)[3:], key_start=key_start - 3)
    assert torch.equal(gather_attention(q, k, v, packed, sm_scale=0.125, backend=backend), expected)

    once = replace(plan, key_start=plan.key_start[:, :1].expand_as(plan.key_start), tail=None)
    once = replace(once, key_count=plan.key_count[:, :1].expand_as(plan.key_count))
    assert_exact(q, k, v, once, backend, with_lse=True)


def test_memory_order_does_not_matter_and_out_is_written_at_its_own_place(view, backend, device):
    q, k, v, plan = make(2, 3, 111, 9, 64, 0.4, device, torch.float16, 2)
    expected = gather_attention(q, k, v, plan, sm_scale=0.125, backend=backend)
    out = view(torch.full_like(q, float("nan")))
    assert gather_attention(view(q), view(k), view(v), plan, sm_scale=0.125, out=out, backend=backend) is out
    assert torch.equal(out, expected) and out._base.isfinite().sum() == out.numel()  # and nothing beside it
    assert torch.equal(gather_attention(view(q), view(k), view(v), plan, sm_scale=0.125, backend=backend), expected)


def test_large_logits_do_not_overflow(backend, device):
    q, k, v, plan = make(1, 1, 111, 9, 64, 0.4, device, torch.float16, 2)
    out = gather_attention(20 * q, 20 * k, v, plan, sm_scale=0.125, backend=backend)
    expected, _ = exact(20 * q, 20 * k, v, plan, 0.125)
    assert out.isfinite().all() and (out.double() - expected).abs().max() < 0.05


def test_work_counts_pairs_and_padding():
    rows = torch.full((1, 2, 4), -1, dtype=torch.int32)
    rows[0, 0], rows[0, 1, 0] = torch.arange(4), 4
    sets, keys = torch.zeros(1, 1, dtype=torch.int32), torch.arange(8, dtype=torch.int32)
    plan = Plan(sets, rows, keys, torch.tensor([[0, 3]]), torch.tensor([[3, 5]]))
    assert plan.pairs().item() == 4 * 3 + 1 * 5
    assert plan.pairs(4, 4).item() == 4 * 4 + 4 * 8


def _shift(plan, entries):
    return replace(plan, key_start=plan.key_start + entries)


BAD = {
    "shapes": (lambda q, k, v, plan: (q, k[:, :, :-1], v, plan), r"k \(1, 2, 62, 64\)"),
    "dtypes": (lambda q, k, v, plan: (q, k.half(), v, plan), "torch.float16"),
    "heads": (lambda q, k, v, plan: (q[:, :1], k[:, :1], v[:, :1], plan), r"heads \(1, 2\), q has \(1, 1\)"),
    "devices": (lambda q, k, v, plan: (q.to("meta"), k, v, plan), "meta"),
    "head_dim": (lambda q, k, v, plan: (q[..., :48], k[..., :48], v[..., :48], plan), "head_dim 48"),
    "list begins too early": (lambda q, k, v, plan: (q, k, v, _shift(plan, -1)), "lists go from -1 to"),
    "list ends too late": (lambda q, k, v, plan: (q, k, v, replace(plan, key_index=plan.key_index[:9])), "of 9 keys"),
    "key out of range": (lambda q, k, v, plan: (q, k, v, _shift(plan, 1)), "key_index holds .* to 1073741824, .* 0 to 62"),
    "row out of range": (lambda q, k, v, plan: (*(x[:, :, :40].contiguous() for x in (q, k, v)), plan), "62.*0 to 39"),
}


@pytest.mark.parametrize("spoil, message", BAD.values(), ids=BAD.keys())
def test_rejects_what_does_not_fit(spoil, message, device):
    q, k, v, plan = spoil(*make(1, 2, 63, 5, 64, 0.5, device))
    with pytest.raises(ValueError, match=message):
        gather_attention(q, k, v, plan, sm_scale=0.125)
