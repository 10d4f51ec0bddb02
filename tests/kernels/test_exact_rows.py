"""exact_rows: a few rows of attention against float64."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from sparse_videogen.kernels.exact_rows import Windows, exact_rows

# B, H, N, S, P, D; every second pattern's rows read keys from the last third only.
SHAPES = [
    pytest.param(1, 1, 63, 1, 0, 64, id="one-row"),
    pytest.param(2, 3, 111, 20, 2, 64, id="batch"),
    pytest.param(1, 1, 1000, 70, 1, 64, id="many-keys"),
    pytest.param(1, 1, 111, 64, 1, 128, id="wide-heads"),
]
# Another order of float32 sums than torch's, at values of order one.
FLOOR = 2e-6


def inputs(b, h, n, s, p, d, dtype, device):
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(b, h, n, d, generator=rng).to(device, dtype) for _ in range(3))
    rows = torch.randperm(n, generator=rng)[:s]
    if not p:
        return q, k, v, rows.to(device), None
    rank = torch.stack([torch.randperm(n, generator=rng) for _ in range(p)])
    begin = torch.randint(2 * n // 3, (p, s), generator=rng)
    begin[::2] = 2 * n // 3
    rank[::2] = torch.arange(n)
    end = begin + torch.randint(1, n // 3, (p, s), generator=rng)
    prefix = torch.arange(p) * 5
    return q, k, v, rows.to(device), Windows(*(x.int().to(device) for x in (rank, prefix, begin, end)))


def split_keys(backend, monkeypatch, keys_per_program=96):
    """Makes small inputs take the way of large ones: several programs, each with some of the keys; torch has one way."""
    if backend == "torch":
        return
    kernel = importlib.import_module("sparse_videogen.kernels.exact_rows.triton_kernel")
    monkeypatch.setattr(kernel, "MIN_KEYS", keys_per_program)


def attention(q, k, v, rows, sm_scale, windows, dtype):
    """Torch's own attention of the rows in `dtype`, [B, H, 1 + P, S, D]."""
    q, k, v = q.index_select(2, rows).to(dtype), k.to(dtype), v.to(dtype)
    every = [None] if windows is None else [None, *windows.masks()]
    return torch.stack([F.scaled_dot_product_attention(q, k, v, mask, scale=sm_scale) for mask in every], 2)


@pytest.mark.parametrize("b, h, n, s, p, d", SHAPES)
def test_matches_float64(b, h, n, s, p, d, product_dtype, backend, device, poisoned, monkeypatch):
    split_keys(backend, monkeypatch)
    arguments = q, k, v, rows, windows = inputs(b, h, n, s, p, d, product_dtype, device)
    out = exact_rows(q, k, v, rows, sm_scale=0.2, windows=windows, backend=backend)
    assert out.dtype == torch.float32 and out.shape == (b, h, 1 + p, s, d)
    exact = attention(*arguments[:4], 0.2, windows, torch.float64)
    torch_error = (attention(*arguments[:4], 0.2, windows, product_dtype).double() - exact).abs().max()
    assert (out.double() - exact).abs().max() <= 2 * torch_error + FLOOR


def test_memory_order_and_the_rows_integer_type_do_not_matter(view, backend, device):
    q, k, v, rows, windows = inputs(2, 3, 63, 20, 1, 64, torch.float16, device)
    expected = exact_rows(q, k, v, rows, sm_scale=0.2, windows=windows, backend=backend)
    turned = Windows(*(x.mT.contiguous().mT if x.ndim > 1 else x for x in windows))
    turned = exact_rows(view(q), view(k), view(v), rows.int(), sm_scale=0.2, windows=turned, backend=backend)
    torch.testing.assert_close(turned, expected, atol=FLOOR, rtol=0)


def test_splits_do_not_matter(backend, device, monkeypatch):
    if backend != "triton":
        pytest.skip("torch does not split the keys")
    q, k, v, rows, windows = inputs(1, 1, 1000, 20, 1, 64, torch.float32, device)
    whole = exact_rows(q, k, v, rows, sm_scale=0.2, windows=windows, backend=backend)
    split_keys(backend, monkeypatch)
    parts = exact_rows(q, k, v, rows, sm_scale=0.2, windows=windows, backend=backend)
    assert not torch.equal(parts, whole)  # other sums
    torch.testing.assert_close(parts, whole, atol=FLOOR, rtol=0)


def test_windows_that_hold_all_change_nothing(backend, device):
    q, k, v, rows, windows = inputs(1, 2, 111, 20, 2, 64, torch.float16, device)
    prefix = torch.tensor([111, 0], dtype=torch.int32, device=device)
    whole = windows._replace(prefix=prefix, begin=0 * windows.begin, end=0 * windows.end + 111)
    out = exact_rows(q, k, v, rows, sm_scale=0.2, windows=whole, backend=backend)
    assert torch.equal(out[:, :, 1], out[:, :, 0]) and torch.equal(out[:, :, 2], out[:, :, 0])
    assert torch.equal(exact_rows(q, k, v, rows, sm_scale=0.2, backend=backend), out[:, :, :1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_single_allowed_key_gives_its_value(dtype, backend, device, monkeypatch):
    """Most of the splits, then, allow nothing."""
    split_keys(backend, monkeypatch)
    q, k, v, rows, _ = inputs(1, 2, 1000, 20, 0, 64, dtype, device)
    keys = torch.arange(20, dtype=torch.int32, device=device) * 37
    every = torch.arange(1000, dtype=torch.int32, device=device)
    one = Windows(every.unsqueeze(0), every[:1], keys.unsqueeze(0), keys.unsqueeze(0) + 1)
    out = exact_rows(q, k, v, rows, sm_scale=0.2, windows=one, backend=backend)
    assert torch.equal(out[:, :, 1], v.index_select(2, keys).float())


def test_logits_out_of_reach_of_exp(backend, device):
    q, k, v, rows, windows = inputs(1, 1, 111, 20, 1, 64, torch.float32, device)
    out = exact_rows(100 * q, k, v, rows, sm_scale=0.2, windows=windows, backend=backend)
    exact = attention(100 * q, k, v, rows, 0.2, windows, torch.float64)
    # Logits of some hundreds carry an absolute rounding of 1e-4, and so do the weights.
    torch.testing.assert_close(out.double(), exact, atol=1e-3, rtol=0)


def test_rejects_bad_shapes(backend):
    q, k, v, rows, windows = inputs(1, 2, 63, 20, 1, 64, torch.float32, "cpu")
    for arguments in [(q[:, :1], k, v), (q[0], k, v), (q, k, v[:, :, 1:]), (q[..., 1:], k, v)]:
        with pytest.raises(ValueError, match="must be"):
            exact_rows(*arguments, rows, sm_scale=0.2, backend=backend)
    for wrong in (windows._replace(rank=windows.rank[:, 1:]), windows._replace(end=windows.end[:, 1:])):
        with pytest.raises(ValueError, match=r"windows .* must be \[\(1, 63\), \(1,\), \(1, 20\), \(1, 20\)\]"):
            exact_rows(q, k, v, rows, sm_scale=0.2, windows=wrong, backend=backend)
