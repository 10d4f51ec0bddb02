"""What differs between GPUs' makers and Triton's versions, detected by feature, in one place."""

from __future__ import annotations

import functools
import importlib.metadata
import os

import torch

FLOAT32_PRECISIONS = ("tf32", "tf32x3", "ieee")
# Checked as the pack loads: a launch would take the error for the kernel's.
FLOAT32 = os.environ.get("SPARSE_VIDEOGEN_FLOAT32", "tf32")
if FLOAT32 not in FLOAT32_PRECISIONS:
    raise ValueError(f"SPARSE_VIDEOGEN_FLOAT32={FLOAT32!r}: must be one of {', '.join(FLOAT32_PRECISIONS)}")

# A launch's option: a * b + c in one operation. Triton 3.9 warns where it is not said, and 3.10 no longer does it unasked.
FUSED = {"enable_fp_fusion": True}


def float32_precision() -> str:
    """How float32 products are computed: exactly on AMD; on NVIDIA by TF32 (10 bits of mantissa, as float16).

    SPARSE_VIDEOGEN_FLOAT32 in the environment asks for another of `FLOAT32_PRECISIONS`. The nearly exact ones spill at
    head_dim 128 on every NVIDIA GPU and tile shape tried, so they are slow, and not the default.
    """
    return "ieee" if torch.version.hip else FLOAT32


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
