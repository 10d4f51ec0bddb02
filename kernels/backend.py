"""The one place that decides which implementation of an op runs."""

from __future__ import annotations

import importlib.util

import torch

BACKENDS = ("auto", "triton", "torch")

# Ops whose `triton_kernel.py` exists.
TRITON_OPS: frozenset[str] = frozenset()


def choose_backend(backend: str, device: torch.device) -> str:
    """Resolves `backend` for tensors on `device` to "triton" or "torch".

    Args:
        backend: "auto" takes Triton where it can run and torch elsewhere; "triton" and "torch" insist.
        device: where q, k and v live.

    Raises:
        ValueError: `backend` is none of `BACKENDS`.
        RuntimeError: "triton" was asked for and cannot run; the message names the remedy.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}: allowed are {', '.join(BACKENDS)}")
    if backend == "torch":
        return "torch"
    obstacle = _triton_obstacle(device)
    if obstacle is None:
        return "triton"
    if backend == "triton":
        raise RuntimeError(f"backend='triton' cannot run: {obstacle}, or choose backend 'auto' or 'torch'")
    return "torch"


def _triton_obstacle(device: torch.device) -> str | None:
    """Why Triton cannot run on `device`, with its remedy; None if it can."""
    if not TRITON_OPS:
        return "this version has no Triton kernels yet. Update the pack"
    if device.type != "cuda":
        return f"the tensors are on {device.type!r} and Triton needs an NVIDIA or AMD GPU. Move the model to one"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed. Run 'pip install triton' (Windows: 'pip install triton-windows')"
    return None
