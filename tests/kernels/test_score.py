"""score: what leaving a cluster to the tail is expected to cost, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from precision import product_eps
from sparse_videogen.kernels.plan import SECOND_ORDER_CAP
from sparse_videogen.kernels.score import score
from sparse_videogen.kernels.tile_configs import NoTileConfig, tile_config

# B, H, N, C, D, T, R
SHAPES = [
    pytest.param(1, 1, 63, 1, 64, 1, 16, id="one-cluster"),
    pytest.param(2, 3, 111, 20, 64, 5, 24, id="batch"),
    pytest.param(1, 2, 111, 300, 128, 3, 64, id="more-clusters-than-rows"),
    pytest.param(1, 1, 1000, 70, 128, 2, 100, id="many-rows"),
]
SM_SCALE = 0.17


def inputs(b, h, n, c, d, tiles, rows, device, dtype=torch.float32, second_order=True):
    """The arguments of score: one cluster is empty where there are several, the last tile is not full."""
    rng = torch.Generator().manual_seed(0)
    q, k_mean = (1.5 * torch.randn(b, h, x, d, generator=rng) for x in (n, c))
    index = torch.randint(n, (b, h, tiles, rows), generator=rng, dtype=torch.int32)
    index[..., -1, rows // 3 :] = -1
    size = torch.randint(1, 200, (b, h, c), generator=rng).float()
    size[..., 1::64] = 0
    variance = 4 * torch.rand(b, h, c, d, generator=rng).square() * torch.rand(b, h, c, 1, generator=rng)
    spread = torch.rand(b, h, c, generator=rng)
    args = [q.to(dtype), index, k_mean, variance if second_order else None, size.log(), spread if second_order else None]
    return [x if x is None else x.to(device) for x in args]


def exact(q, rows, k_mean, k_variance, log_size, v_spread):
    """float64, as the contract says, of all rows at once."""
    q, k_mean, size = q.double(), k_mean.double(), log_size.double().exp()
    b, h, tiles, per_tile = rows.shape
    index = rows.clamp(min=0).long().view(b, h, -1, 1).expand(-1, -1, -1, q.shape[3])
    scaled = SM_SCALE * q.gather(2, index)
    logits, worth = scaled @ k_mean.mT + size.log().unsqueeze(2), 1.0
    if k_variance is not None:
        spread = (scaled.square() @ k_variance.double().mT).clamp(max=2 * SECOND_ORDER_CAP)
        logits += (spread / 2).clamp(max=SECOND_ORDER_CAP)
        worth = spread * v_spread.double().unsqueeze(2)
    cost = logits.softmax(-1).square() * worth / size.clamp(min=1).unsqueeze(2)
    valid = (rows >= 0).unsqueeze(-1)
    cost = (cost.view(b, h, tiles, per_tile, -1) * valid).sum(3)
    return cost / valid.sum(3).clamp(min=1)


def assert_exact(args, backend):
    """Every score within what rounding makes of it.

    A score goes with exp of two logits, the cell's and the row's log-sum-exp, twice over. Operands rounded by eps change a
    product by eps times the sum of its terms' magnitudes at most, and its second-order part by eps times the cap; twice that
    leaves room for the sums' own rounding.
    """
    q, rows, k_mean, *_ = args
    eps = torch.finfo(torch.float32).eps if backend == "torch" else product_eps(q.dtype, backend, q.device)
    terms = SM_SCALE * (q.double().abs() @ k_mean.double().abs().mT).max().item()
    result, expected = score(*args, sm_scale=SM_SCALE, backend=backend), exact(*args)
    assert result.dtype == torch.float32 and result.shape == (*rows.shape[:3], k_mean.shape[2])
    torch.testing.assert_close(result.double(), expected, rtol=8 * eps * (terms + SECOND_ORDER_CAP), atol=1e-30)
    return result


@pytest.mark.parametrize("second_order", [True, False], ids=["second-order", "no-tail"])
@pytest.mark.parametrize("b, h, n, c, d, tiles, rows", SHAPES)
def test_matches_float64(b, h, n, c, d, tiles, rows, second_order, product_dtype, backend, device, poisoned):
    assert_exact(inputs(b, h, n, c, d, tiles, rows, device, product_dtype, second_order), backend)


@pytest.mark.parametrize("knobs", [{"block_m": 32}, {"block_m": 64, "block_n": 16}, {"block_m": 256}], ids=str)
def test_any_config_gives_the_same(knobs, device, monkeypatch, poisoned):
    """Whatever the table says: a tile a program, or several and the last of them with fewer."""
    kernel = pytest.importorskip("sparse_videogen.kernels.score.triton_kernel")
    config = replace(tile_config("score", 64, device, torch.float16), **knobs)
    monkeypatch.setattr(kernel, "tile_config", lambda *_: config)
    assert_exact(inputs(2, 3, 111, 20, 64, 5, 24, device, torch.float16), "triton")


def test_a_tile_of_more_rows_than_the_config_takes_is_refused_by_name(device, monkeypatch):
    kernel = pytest.importorskip("sparse_videogen.kernels.score.triton_kernel")
    config = replace(tile_config("score", 64, device, torch.float16), block_m=16)
    monkeypatch.setattr(kernel, "tile_config", lambda *_: config)
    with pytest.raises(NoTileConfig, match="score has no Triton kernel for float16, head_dim 64 and tiles of 24 rows on"):
        kernel.launch_score(*inputs(2, 3, 111, 20, 64, 5, 24, device, torch.float16), SM_SCALE)


def test_an_empty_cluster_and_a_tile_without_rows_score_0(backend, device, poisoned):
    args = inputs(2, 3, 111, 20, 64, 5, 24, device)
    args[1][0, 1, 2] = -1
    result = assert_exact(args, backend)
    assert (result[0, 1, 2] == 0).all() and (result[..., 1] == 0).all()
    kept = result[..., [0, *range(2, 20)]].flatten(0, 2)
    assert (kept > 0).all(-1).sum() == 2 * 3 * 5 - 1


def test_clusters_without_spread_have_nothing_to_save(backend, device):
    q, rows, k_mean, variance, log_size, spread = inputs(1, 2, 111, 20, 64, 5, 24, device)
    for args in ((torch.zeros_like(variance), spread), (variance, torch.zeros_like(spread))):
        result = score(q, rows, k_mean, args[0], log_size, args[1], sm_scale=SM_SCALE, backend=backend)
        assert (result == 0).all()


def test_large_logits_and_a_wide_cluster_do_not_overflow(backend, device):
    """The second-order term is at its cap; one cluster has all the mass, whichever it is."""
    args = inputs(1, 2, 111, 20, 64, 5, 24, device)
    args[0] *= 20
    result = score(*args, sm_scale=SM_SCALE, backend=backend)
    torch.testing.assert_close(result.double(), exact(*args), rtol=1e-3, atol=1e-30)


@pytest.mark.filterwarnings("ignore:All-NaN")  # numpy, in the interpreter
def test_what_is_no_number_stays_in_its_tile(backend, device):
    args = inputs(2, 3, 111, 20, 64, 5, 24, device)
    expected = score(*args, sm_scale=SM_SCALE, backend=backend)
    index = args[1]
    index[0, 1] = index[0, 1].clamp(max=109)
    index[0, 1, 2, 0] = 110
    args[0][0, 1, 110] = float("nan")
    result = score(*args, sm_scale=SM_SCALE, backend=backend)
    bad = torch.zeros(2, 3, 5, dtype=torch.bool, device=device)
    bad[0, 1, 2] = True
    assert torch.equal(result.isnan()[..., 0], bad) and torch.equal(result[1], expected[1])


def test_memory_order_does_not_matter_and_two_runs_are_equal(view, backend, device):
    args = inputs(2, 3, 111, 20, 64, 5, 24, device, torch.float16)
    args[1] = args[1][:, :1].expand(-1, 3, -1, -1)
    random_state = torch.get_rng_state()
    expected = score(*args, sm_scale=SM_SCALE, backend=backend)
    turned = [view(x) if x is not None and x.ndim == 4 and i != 1 else x for i, x in enumerate(args)]
    for _ in range(2):
        assert torch.equal(score(*turned, sm_scale=SM_SCALE, backend=backend), expected)
    assert torch.equal(torch.get_rng_state(), random_state)


WRONG = {
    "rows": (lambda a: [a[0], a[1][:, :1], *a[2:]], r"rows \(1, 1, 5, 24\)"),
    "k_mean": (lambda a: [*a[:2], a[2][..., :32], *a[3:]], r"k_mean \(1, 2, 20, 32\)"),
    "log_size": (lambda a: [*a[:4], a[4][..., :5], a[5]], r"log_size \(1, 2, 5\) must be \(1, 2, 20\)"),
    "variance alone": (lambda a: [*a[:5], None], "come together"),
    "k_variance": (lambda a: [*a[:3], a[3][:, :, :7], *a[4:]], r"k_variance \(1, 2, 7, 64\)"),
    "v_spread": (lambda a: [*a[:5], a[5][..., :7]], r"v_spread \(1, 2, 7\)"),
}


@pytest.mark.parametrize("spoil, message", WRONG.values(), ids=WRONG.keys())
def test_rejects_what_does_not_fit(spoil, message, backend):
    with pytest.raises(ValueError, match=message):
        score(*spoil(inputs(1, 2, 111, 20, 64, 5, 24, "cpu")), sm_scale=SM_SCALE, backend=backend)
