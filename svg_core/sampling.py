"""Deterministic sample positions."""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN_RATIO_16 = 40503  # in 1/65536


def stratified(samples: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """`samples` distinct rising numbers in [0, n), one from each equal stretch of the range.

    Inside its stretch a sample stands at a low-discrepancy offset: even steps would fall on the same column
    of every frame whenever the step and the frame's width share a factor. No random numbers are drawn.

    Args:
        samples: 1 <= samples <= n.
        n: size of the range.

    Returns:
        [samples] int64.
    """
    # Whole numbers, made where they are needed: a copy to a GPU would wait for it, and not all have float64.
    i = torch.arange(samples, device=device)
    begin = i * n // samples
    room = (i + 1) * n // samples - begin
    offset = (i * GOLDEN_RATIO_16 + 32768) % 65536
    return begin + (offset * room) // 65536
