"""Deterministic sample positions."""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN_RATIO = 0.6180339887498949


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
    i = torch.arange(samples, dtype=torch.float64)
    begin = (i * n / samples).floor()
    room = ((i + 1) * n / samples).floor() - begin
    offset = (i * GOLDEN_RATIO + 0.5) % 1
    return (begin + (offset * room).floor()).long().to(device)
