"""The one place that decides which implementation of an op runs."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os

import torch

from .tile_configs import NoTileConfig, architecture, tile_config

log = logging.getLogger("sparse_videogen")

BACKENDS = ("auto", "triton", "torch")
OLDEST_CAPABILITY = (8, 0)  # before it, 16-bit products and copies that run ahead are missing, and registers run out
_failures: dict[str, str] = {}  # by op, GPU architecture and dtype, as in "assign (9.0, bfloat16)"
_without_kernel: set[str] = set()


def backend_status(device: torch.device, dtype: torch.dtype, head_dim: int, backend: str = "auto") -> tuple[str, str | None]:
    """Which implementation runs for such tensors, and why it cannot.

    Torch runs where it is asked for, and by itself on a CPU. On an accelerator its loop over tiles would launch some 24,000
    small products a call of Wan 14B: without a working kernel of gather_attention, attention had better stay dense there.

    Args:
        device, dtype, head_dim: of q, k and v.
        backend: "auto", or "triton" or "torch", which insist.

    Returns:
        "triton" or "torch"; and None, or the reason with its remedy.

    Raises:
        ValueError: `backend` is none of `BACKENDS`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: must be one of {', '.join(BACKENDS)}")
    if backend == "torch" or (backend == "auto" and device.type == "cpu"):  # Triton's interpreter is for tests that ask for it
        return "torch", None
    return "triton", triton_obstacle(device) or _gather_obstacle(device, dtype, head_dim)


def run(package: str, op: str, backend: str, *args, fallback: bool = True, precision: str = ""):
    """Calls `launch_<op>` of the package's `triton_kernel.py` or `<op>` of its `reference.py`, which take the same.

    A kernel that fails to compile or launch is not tried again in this process for tensors of the first one's dtype on
    GPUs of its architecture: its traceback is logged once, `failures` tells the reason, and torch does the work there
    from then on. Without `fallback` the failure is raised instead. Out of memory is the caller's to handle. An op that has
    kernels of several precisions names this one's, and its others still run.
    """
    place = _place(op, args[0].device, args[0].dtype, precision)
    if backend == "triton" and (place not in _failures or not fallback):
        try:
            kernel = importlib.import_module(f"{__package__}.{package}.triton_kernel")
            with torch.cuda.device_of(args[0]):  # Triton launches on the current GPU, whatever the tensors' is
                return getattr(kernel, f"launch_{op}")(*args)
        except NoTileConfig as missing:  # for this dtype and head_dim alone: the op's other kernels still run
            if not fallback:
                raise
            if str(missing) not in _without_kernel:
                _without_kernel.add(str(missing))
                log.warning("[sparse_videogen] %s; torch does its work there", missing)
        except Exception as error:  # whatever a driver or compiler on a user's machine may raise
            if is_out_of_memory(error):
                raise
            _failures[place] = f"{type(error).__name__}: {error}"
            if not fallback:
                raise RuntimeError(f"the Triton kernel of {place} failed: {_failures[place]}") from error
            message = "[sparse_videogen] the Triton kernel of %s failed; torch does its work from now on"
            log.warning(message, place, exc_info=error)
    reference = importlib.import_module(f"{__package__}.{package}.reference")
    return getattr(reference, op)(*args)


def _place(op: str, device: torch.device, dtype: torch.dtype, precision: str = "") -> str:
    return f"{op} ({', '.join(filter(None, (architecture(device), str(dtype).removeprefix('torch.'), precision)))})"


def failed(op: str, device: torch.device, dtype: torch.dtype, precision: str = "") -> str | None:
    """That the op's kernel for such tensors failed in this process, with the remedy, or None."""
    place = _place(op, device, dtype, precision)
    reason = _failures.get(place)
    return reason and f"the Triton kernel of {place} failed before ({reason}); restart Python to try it again"


def _gather_obstacle(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why there is no kernel of gather_attention for such tensors, or None."""
    try:
        tile_config("gather_attention", head_dim, device, dtype)
    except NoTileConfig as missing:
        return str(missing)
    return failed("gather_attention", device, dtype)


def failures() -> dict[str, str]:
    """Triton kernels that failed in this process, as "assign (9.0, bfloat16)", each with the reason."""
    return dict(_failures)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device's memory ran out: torch has classes for it, Triton raises a RuntimeError for all that CUDA reports.

    Triton's OutOfResources is another matter: a kernel needs more shared memory than the GPU ever has.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()


def triton_obstacle(device: torch.device) -> str | None:
    """Why Triton cannot run on `device`, with its remedy; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; run 'pip install triton' (Windows: 'pip install triton-windows')"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {device.type!r} and Triton needs an NVIDIA or AMD GPU; move the model to one"
    if device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        name, has = torch.cuda.get_device_name(device), architecture(device)
        return f"{name} has compute capability {has}, and the kernels need 8.0 (RTX 30 series, A100) or newer"
    return None
