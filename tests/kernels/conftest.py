"""What the kernel tests share: both backends, memory that shows what was never written, no silent way back to torch."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from sparse_videogen.kernels import backend as backends

NO_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(params=["torch", pytest.param("triton", marks=NO_TRITON)])
def backend(request) -> str:
    return request.param


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def kernels_do_not_fall_back():
    """A kernel that fails hands over to torch, whose result would pass: here the failure counts."""
    backends._failures.clear()
    yield
    failures = backends.failures()
    backends._failures.clear()
    assert not failures


@pytest.fixture
def multiplies(device, backend):
    """multiplies(dtype): skips what Triton's interpreter cannot do, which multiplies bf16 matrices by their bits."""

    def check(dtype):
        if backend == "triton" and device.type == "cpu" and dtype == torch.bfloat16:
            pytest.skip("Triton's interpreter cannot multiply bf16 matrices")

    return check


@pytest.fixture
def poisoned(monkeypatch):
    """torch.empty gives NaN, or a large negative integer, or True: what a kernel leaves unwritten shows."""

    def poison(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            if tensor.is_floating_point():
                return tensor.fill_(float("nan"))
            return tensor.fill_(True if tensor.dtype in (torch.bool, torch.uint8) else -(1 << 30))

        return made

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))


def _host_view(x):
    """[B, H, N, D] as a view of [B, N, H * D], the way hosts lay out heads."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _fused_view(x):
    """The middle third of a fused projection [B, N, 3, H, D]."""
    return torch.stack([-x, x, x + 1]).permute(1, 3, 0, 2, 4).contiguous()[:, :, 1].transpose(1, 2)


def _odd_view(x):
    """Rows that start at no multiple of anything."""
    wide = x.new_zeros(*x.shape[:3], x.shape[3] + 5)
    wide[..., 3:-2] = x
    return wide[..., 3:-2]


def _transposed_view(x):
    """Rows that are not contiguous."""
    return x.transpose(2, 3).contiguous().transpose(2, 3)


@pytest.fixture(params=[_host_view, _fused_view, _odd_view, _transposed_view], ids=["host", "fused", "odd", "transposed"])
def view(request):
    """view(x): x with the same values and other strides."""
    return request.param
