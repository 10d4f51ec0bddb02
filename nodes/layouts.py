"""Which tokens of a forward are the video's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..svg_core import VideoLayout
from .families import Family, patch_grid
from .reasons import StayDense


def video_grid(family: Family, diffusion_model: nn.Module, size: Sequence[int]) -> VideoLayout | None:
    """The grid of tokens that a forward of a latent of this size, [B, C, T, H, W], makes; None if there is no such grid."""
    patch = family.patch(diffusion_model)
    return None if patch is None or len(size) != 5 else patch_grid(patch, size)


def forward_grid(family: Family, diffusion_model: nn.Module, arguments: Mapping) -> VideoLayout | None:
    """The grid of a forward, by its arguments' names; None without one.

    Of x, or of the first in it where it is a list of a video and its audio, with the frames that Phantom appends to it and
    without the keyframes that x has at its end with LTX.
    """
    x, appended, keyframes = (arguments.get(name) for name in ("x", "time_dim_concat", "keyframe_idxs"))
    x = x[0] if isinstance(x, (list, tuple)) and x else x
    if not isinstance(x, Tensor):
        return None
    size = list(x.shape)
    if appended is not None and len(size) == 5:
        size[2] += appended.shape[2]
    grid = video_grid(family, diffusion_model, size)
    if grid is not None and keyframes is not None:  # [B, 3, tokens, ...]
        grid = replace(grid, frames=grid.frames - keyframes.shape[2] // grid.frame_tokens)
    return grid


def token_layout(family: Family, model: nn.Module, arguments: Mapping, grid: VideoLayout, tokens: int) -> VideoLayout:
    """The layout of a self-attention call over `tokens` tokens.

    Args:
        arguments: of the forward, by name, with the transformer_options of the call.
        grid: the video's.

    Raises:
        StayDense: what the tokens beyond the grid are is not known.
    """
    surplus = tokens - grid.video_tokens
    if surplus == 0:
        return grid
    before = family.tokens_before(model, arguments, surplus) if surplus > 0 else None
    if before is None:
        size = f"{tokens} tokens and the {grid.frames} x {grid.height} x {grid.width} grid has {grid.video_tokens}"
        raise StayDense("layout", f"the call has {size}; what the others are is not known for {family.name}")
    keyframes = arguments.get("keyframe_idxs")  # of which some tokens may be left out, so that they are no whole frames
    whole = keyframes is None or keyframes.shape[2] == surplus
    if family.surplus_is_frames and whole and surplus % grid.frame_tokens == 0:
        return replace(grid, frames=grid.frames + surplus // grid.frame_tokens)
    return replace(grid, text_before=before, text_after=surplus - before)
