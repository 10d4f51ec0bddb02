"""Attention masks of the host: those that only leave text tokens out."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..svg_core import VideoLayout
from .reasons import StayDense

# Hosts add the dtype's least number, or -inf, to the scores of keys that nobody reads; exp(-1e4) is 0 in any dtype.
OUT_OF_REACH = -1e4


def masked_keys(mask: Tensor, tokens: int) -> list[tuple[int, ...]]:
    """The keys that nobody reads, for each row of a key-only mask; waits for the device.

    Args:
        mask: bool (True is read) or added to the scores, as the host's attention takes it: [queries, tokens],
            [batch, queries, tokens] or [batch, heads, queries, tokens].

    Returns:
        One tuple of token numbers for all elements of the batch, or one for each.

    Raises:
        StayDense: the mask is of another kind.
    """
    same_for = mask.shape[:1] if mask.ndim == 2 else mask.shape[1:-1]
    if mask.shape[-1] != tokens or any(size != 1 for size in same_for):
        raise StayDense(
            "mask", f"a mask of {tuple(mask.shape)} is not the same for every query and head, or not for {tokens} keys"
        )
    rows = mask.flatten(0, -2).cpu()
    out = rows <= OUT_OF_REACH if rows.is_floating_point() else ~rows.bool()
    if rows.is_floating_point() and (rows[~out] != 0).any():
        raise StayDense("mask", "it gives keys different weights instead of leaving some out")
    keys = [tuple(row.nonzero().flatten().tolist()) for row in out]
    return keys[:1] if len(set(keys)) == 1 else keys


def mask_text(layout: VideoLayout, rows: list[tuple[int, ...]]) -> list[VideoLayout]:
    """The layout under each row's mask; raises StayDense unless only text is masked."""
    if any(layout.video.start <= key < layout.video.stop for row in rows for key in row):
        raise StayDense("mask", "it leaves out tokens of the video")
    return [replace(layout, masked=row) for row in rows]
