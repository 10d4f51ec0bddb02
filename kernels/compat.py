"""What differs between GPUs' makers and Triton's versions, detected by feature, in one place."""

from __future__ import annotations

import torch


def float32_precision() -> str:
    """How float32 products are computed: TF32 on NVIDIA (10 bits of mantissa, as float16), exactly on AMD.

    Three TF32 products, which would be nearly exact, spill at head_dim 128 on every NVIDIA GPU and tile shape tried.
    """
    return "ieee" if torch.version.hip else "tf32"
