"""How each model family lays its video out as tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..svg_core import VideoLayout


@dataclass(frozen=True)
class Family:
    """One line of the table.

    Attributes:
        name: for messages.
        module: class name of the diffusion model or of one of its bases.
        text: whether tokens beyond the video grid are text, in one piece beside it.
        first_frame: SVG's patterns include the first frame, as in the authors' settings for the family.
    """

    name: str
    module: str
    text: bool
    first_frame: bool


FAMILIES = (
    Family("Wan", "WanModel", text=False, first_frame=True),
    Family("HunyuanVideo", "HunyuanVideo", text=True, first_frame=False),
    Family("CogVideoX", "CogVideoXTransformer3DModel", text=True, first_frame=False),
)


def family_of(diffusion_model: nn.Module) -> Family | None:
    """The family that the model's class belongs to, or None."""
    names = {base.__name__ for base in type(diffusion_model).__mro__}
    return next((family for family in FAMILIES if family.module in names), None)


def video_grid(diffusion_model: nn.Module, x: torch.Tensor | None) -> VideoLayout | None:
    """The grid of tokens that a forward of `x` [B, C, T, H, W] makes; None if there is no such grid."""
    patch = getattr(diffusion_model, "patch_size", None)
    if x is None or x.ndim != 5 or not isinstance(patch, Sequence) or len(patch) != 3:
        return None
    return VideoLayout(*(math.ceil(size / p) for size, p in zip(x.shape[2:], patch, strict=True)))


def place_text(
    family: Family, diffusion_model: nn.Module, grid: VideoLayout, tokens: int, reference_tokens: int
) -> VideoLayout | str:
    """The layout of a self-attention call over `tokens` tokens, or why it is not understood.

    Args:
        grid: the video's grid.
        tokens: N of the call.
        reference_tokens: tokens of a reference image, which stand directly before the video.
    """
    surplus = tokens - grid.video_tokens
    if surplus == 0:
        return grid
    size = f"{tokens} tokens, the {grid.frames} x {grid.height} x {grid.width} grid has {grid.video_tokens}"
    if surplus < 0 or not family.text:
        return f"layout: {size}, and what the others are is not known for {family.name}"
    if not _video_first(diffusion_model):
        return replace(grid, text_before=surplus)
    if surplus < reference_tokens:
        return f"layout: {size}, fewer others than the {reference_tokens} of the reference image"
    return replace(grid, text_before=reference_tokens, text_after=surplus - reference_tokens)


def _video_first(diffusion_model: nn.Module) -> bool:
    """HunyuanVideo is [video, text] up to ComfyUI 0.13 and [text, video] from 0.14; CogVideoX has its text first."""
    blocks = getattr(diffusion_model, "double_blocks", None)
    return blocks is not None and len(blocks) > 0 and bool(getattr(blocks[0], "flipped_img_txt", False))
