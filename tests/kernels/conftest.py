"""What the kernel tests share: both backends, memory that shows what was never written, no silent way back to torch."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
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


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture
def product_dtype(dtype, backend, device) -> torch.dtype:
    """A dtype whose matrices the backend can multiply: Triton's interpreter multiplies bf16 by its bits."""
    if backend == "triton" and device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter cannot multiply bf16 matrices")
    return dtype


@pytest.fixture(autouse=True)
def interpreter_rounds_to_fp8(monkeypatch):
    """Triton's interpreter makes 1.97 to 1 in e4m3, since it loses what is carried over: torch rounds in its place."""
    if importlib.util.find_spec("triton") is None:
        return
    import triton.language as tl
    from triton.runtime import interpreter

    own = interpreter._convert_float

    def rounded(data, source, target, mode):
        if (source, target) != (tl.float32, tl.float8e4nv):
            return own(data, source, target, mode)
        return torch.from_numpy(data.copy()).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


@pytest.fixture
def poisoned(monkeypatch):
    """torch.empty gives NaN, or a large negative integer, or True: what a kernel leaves unwritten shows."""

    def poison(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            if tensor.is_floating_point():
                return tensor.fill_(float("nan"))
            if tensor.dtype in (torch.bool, torch.uint8):
                return tensor.fill_(True)
            return tensor.fill_(max(-(1 << 30), torch.iinfo(tensor.dtype).min))

        return made

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))


VIEWS = {
    "host": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),  # of [B, N, H * D], the way hosts lay out heads
    # The middle third of a fused projection [B, N, 3, H, D].
    "fused": lambda x: torch.stack([-x, x, x + 1]).permute(1, 3, 0, 2, 4).contiguous()[:, :, 1].transpose(1, 2),
    "odd": lambda x: F.pad(x, (3, 2), value=float("nan"))[..., 3:-2],  # rows that start at no multiple of anything
    "transposed": lambda x: x.mT.contiguous().mT,  # rows that are not contiguous
}


@pytest.fixture(params=VIEWS.values(), ids=VIEWS.keys())
def view(request):
    """view(x), of [B, H, N, D]: x with the same values and other strides."""
    return request.param
