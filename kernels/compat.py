"""What differs between GPUs' makers and Triton's versions, detected by feature, in one place."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util

import torch


def float32_precision() -> str:
    """How float32 products are computed: TF32 on NVIDIA (10 bits of mantissa, as float16), exactly on AMD.

    Three TF32 products, which would be nearly exact, spill at head_dim 128 on every NVIDIA GPU and tile shape tried.
    """
    return "ieee" if torch.version.hip else "tf32"


@functools.cache
def triton_version() -> tuple[int, int]:
    """Major and minor version of the Triton at hand, (0, 0) without one; older ones spill where newer do not."""
    for package in ("triton", "pytorch-triton-rocm", "triton-windows", "pytorch-triton"):
        try:
            major, minor = importlib.metadata.version(package).split(".")[:2]
        except importlib.metadata.PackageNotFoundError:
            continue
        return int(major), int(minor)
    return 0, 0
