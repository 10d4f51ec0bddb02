"""quantise: keys and values in few bits, against what they stand for and against the reference."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from sparse_videogen.kernels.quantise import LARGEST, LEVELS, measure_channels, quantise, quantised_bytes

VALUES = [None, torch.float16, torch.float8_e4m3fn]
# Half a step of the numbers, by the largest; of FP8 and float16 relative to each, of FP8's smallest on the spot.
HALF_STEP = {torch.float8_e4m3fn: 2**-4, torch.float16: 2**-11}
SHAPES = [
    pytest.param(1, 1, 63, 64, id="small"),
    pytest.param(2, 2, 111, 128, id="batch"),
    pytest.param(1, 2, 300, 64, id="long"),
]
SM_SCALE = 0.125


def make(b, h, n, d, device, dtype=torch.float32):
    """Normal q, k, v; with means of their own, and channels of many sizes."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(b, h, n, d, generator=rng) for _ in range(3))
    size, mean = (torch.randn(3, d, generator=rng) for _ in range(2))
    return [(x * size[i].exp() + 3 * mean[i]).to(device, dtype) for i, x in enumerate((q, k, v))]


def quantised(q, k, v, values=None, backend="torch"):
    """Keys and values by their own channels, which are attributes of what is returned."""
    channels = measure_channels(q, k, v, values)
    made = quantise(q, k, v, channels, sm_scale=SM_SCALE, values=values, backend=backend)
    names = ("balance", "q_mean", "k_mean", "v_scale", "v_mean")
    of_channels = dict(zip(names, channels.unbind(), strict=True))
    return SimpleNamespace(**{name: x for name, x in vars(made).items() if name != "channels"}, **of_channels)


def keys(made):
    """What k8 stands for, [B, H, N, D] float64."""
    scaled = made.k8.double() * made.k_terms[..., :1].double()
    return scaled * made.balance.double().unsqueeze(2) + made.k_mean.double().unsqueeze(2)


def queries(made):
    """What q8 stands for, [B, H, N, D] float64."""
    scaled = made.q8.double() * made.q_terms[..., :1].double() / (SM_SCALE * math.log2(math.e))
    return scaled / made.balance.double().unsqueeze(2) + made.q_mean.double().unsqueeze(2)


def values(made):
    """What v8 stands for, [B, H, N, D] float64."""
    return made.v8.double() * made.v_scale.double().unsqueeze(2) + made.v_mean.double().unsqueeze(2)


@pytest.mark.parametrize("kind", VALUES, ids=str)
@pytest.mark.parametrize("b, h, n, d", SHAPES)
def test_stands_for_the_keys_and_values(b, h, n, d, kind, dtype, backend, device, poisoned):
    q, k, v = make(b, h, n, d, device, dtype)
    made = quantised(q, k, v, kind, backend)
    q_step = made.q_terms[..., :1] / (SM_SCALE * math.log2(math.e) * made.balance.unsqueeze(2))
    k_step = made.k_terms[..., :1] * made.balance.unsqueeze(2)
    for x8, x, step, near in ((made.q8, q, q_step, queries(made)), (made.k8, k, k_step, keys(made))):
        assert ((near - x.double()).abs() <= 0.501 * step + 1e-6 * x.abs()).all()  # half a step, and float32's rounding
        assert x8.dtype == torch.int8 and (x8.int().abs().amax(-1) == LEVELS).all()  # every row has all levels
    (q64, k64), (q_mean, k_mean) = (q.double(), k.double()), (x.double().unsqueeze(2) for x in (made.q_mean, made.k_mean))
    exact = (q64 @ k64.mT) * SM_SCALE * math.log2(math.e)
    parts = ((q64 - q_mean) @ (k64 - k_mean).mT) * SM_SCALE * math.log2(math.e)
    torch.testing.assert_close(parts + made.q_terms[..., 1:] + made.k_terms[..., 1:].mT, exact, atol=1e-4, rtol=1e-5)
    if kind is None:
        assert made.v8 is v and torch.equal(values(made), v.double())
        return
    assert made.v8.dtype == kind and made.v8.float().abs().max() <= LARGEST[kind]
    near = HALF_STEP[kind] * (v.double() - made.v_mean.double().unsqueeze(2)).abs() + 2**-10 * made.v_scale.unsqueeze(2)
    assert ((values(made) - v.double()).abs() <= near).all()
    held = sum(x.numel() * x.element_size() for x in (made.q8, made.q_terms, made.k8, made.k_terms, made.v8))
    assert held == b * h * quantised_bytes(n, d, kind)


@pytest.mark.parametrize("kind", VALUES, ids=str)
@pytest.mark.parametrize("b, h, n, d", SHAPES)
def test_matches_reference(b, h, n, d, kind, view, dtype, device, poisoned):
    """On a CPU bit for bit; on a GPU a number half-way between two steps may fall to either side."""
    pytest.importorskip("triton")
    q, k, v = make(b, h, n, d, device, dtype)
    expected = quantised(q, k, v, kind)
    made = quantised(view(q), view(k), view(v), kind, "triton")
    for name, x in vars(made).items():
        y = vars(expected)[name]
        if x.dtype == torch.int8:
            assert (x.int() - y.int()).abs().max() <= 1 and (x != y).float().mean() < 1e-3
        elif x.dtype == torch.float8_e4m3fn:
            assert (x.float() != y.float()).float().mean() < 1e-3
        else:
            torch.testing.assert_close(x, y, atol=1e-3 if name == "v8" else 1e-4, rtol=2**-10 if name == "v8" else 1e-5)


@pytest.mark.parametrize("kind", VALUES, ids=str)
def test_the_softmax_does_not_see_a_mean(kind, backend, device):
    """Keys, queries and values may stand far off: their steps are those of what varies."""
    q, k, v = make(1, 2, 111, 64, device)
    near, far = (quantised(q + offset, k - offset, v + offset, kind, backend) for offset in (0, 100))
    for name in ("q", "k"):
        a, b = (vars(made) for made in (far, near))
        torch.testing.assert_close(a[f"{name}_terms"][..., 0], b[f"{name}_terms"][..., 0], atol=0, rtol=1e-3)
        assert (a[f"{name}8"].int() - b[f"{name}8"].int()).abs().max() <= 1
    torch.testing.assert_close(far.v_scale, near.v_scale, atol=0, rtol=1e-3)


def test_a_large_channel_leaves_the_others_their_levels(backend, device):
    """Where queries are as large as in the others, its size is shared out to both sides."""
    q, k, v = (torch.randn(1, 1, 300, 64, generator=torch.Generator().manual_seed(i)).to(device) for i in range(3))
    k[..., 17] *= 50
    made = quantised(q, k, v, backend=backend)
    assert made.balance[0, 0, 17] / made.balance[0, 0].median() == pytest.approx(50**0.5, rel=0.2)
    others = torch.arange(64, device=device) != 17
    assert (keys(made) - k.double())[..., others].norm() < 0.06 * k[..., others].norm()
    q[..., 17] /= 50  # then it is the queries' to make up for
    made = quantised(q, k, v, backend=backend)
    assert (keys(made) - k.double())[..., others].norm() < 0.01 * k[..., others].norm()


@pytest.mark.parametrize("kind", VALUES, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-20, 1e15], ids=str)
def test_any_size_is_finite(scale, kind, backend, device):
    q, k, v = (scale * x for x in make(1, 2, 63, 64, device))
    made = quantised(q, k, v, kind, backend)
    assert all(x.float().isfinite().all() for x in vars(made).values())
    assert (made.k_terms[..., 0] > 0).all() and (made.balance > 0).all() and (made.v_scale > 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=str)
def test_what_is_no_number_shows(bad, backend, device):
    """In its head: the mean is none either."""
    q, k, v = make(1, 2, 63, 64, device)
    k[0, 0, 5, 3] = bad
    made = quantised(q, k, v, backend=backend)
    assert not made.k_terms[0, 0].isfinite().any() and made.k_terms[0, 1].isfinite().all()


def test_rejects_what_does_not_fit(device):
    q, k, v = make(1, 1, 8, 64, device)
    with pytest.raises(ValueError, match=r"k \(1, 1, 7, 64\)"):
        measure_channels(q, k[:, :, 1:], v, None)
    with pytest.raises(ValueError, match=r"values torch.int8 must be one of torch.float8_e4m3fn, torch.float16 or None"):
        measure_channels(q, k, v, torch.int8)
