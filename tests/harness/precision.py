"""How exactly the attention kernel multiplies float32 where the tests run."""

from __future__ import annotations

import torch
from sparse_videogen.kernels.compat import float32_precision


def product_eps(dtype: torch.dtype, backend: str, device: torch.device | str) -> float:
    """Rounding of a factor of gather_attention's products: float16's where NVIDIA computes float32 by TF32, else dtype's.

    Torch, Triton's interpreter and AMD's matrix units multiply float32 as it is, and so do assign and exact_rows anywhere.
    """
    by_tf32 = backend == "triton" and torch.device(device).type == "cuda" and float32_precision() == "tf32"
    return torch.finfo(torch.float16 if dtype == torch.float32 and by_tf32 else dtype).eps
