"""How raylight shares the tokens of a call out among the ranks of xFuser's sequence parallelism, and how they are exchanged.

Ulysses (arXiv 2309.14509): each rank has a shard of the tokens; for attention the ranks exchange, so that each has a share of
the heads over all tokens, and exchange back. A rank's shard is a piece of each of the sequences that raylight shares out one
by one, padded at their ends to a multiple of the ranks. Here the padding is left out, though raylight attends to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..svg_core import VideoLayout
from .families import Family, text_tokens
from .layouts import token_layout, video_grid
from .reasons import StayDense

if TYPE_CHECKING:  # some builds of torch are without it
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Shards:
    """The tokens of one call.

    Attributes:
        ranks: among which they are shared out.
        lengths: of the sequences, without their padding.
        layout: of all tokens, sequence after sequence, without the padding: as on one GPU.
    """

    ranks: int
    lengths: tuple[int, ...]
    layout: VideoLayout

    @property
    def pieces(self) -> tuple[int, ...]:
        """Tokens that a shard has of each sequence."""
        return tuple(-(-length // self.ranks) for length in self.lengths)

    def in_order(self, x: Tensor) -> Tensor:
        """[B, N, H, D] shard after shard, with padding -> sequence after sequence, without; a view of one sequence."""
        pieces = x.unflatten(1, (self.ranks, -1)).split(self.pieces, 2)
        sequences = [piece.flatten(1, 2)[:, :length] for piece, length in zip(pieces, self.lengths, strict=True)]
        return sequences[0] if len(sequences) == 1 else torch.cat(sequences, 1)

    def by_shard(self, x: Tensor) -> Tensor:
        """The inverse of `in_order`, with zeros for padding."""
        missing = [self.ranks * piece - length for length, piece in zip(self.lengths, self.pieces, strict=True)]
        parts = zip(x.split(self.lengths, 1), missing, strict=True)
        sequences = [F.pad(part, (0, 0, 0, 0, 0, n)) if n else part for part, n in parts]
        if len(sequences) == 1:
            return sequences[0]
        return torch.cat([sequence.unflatten(1, (self.ranks, -1)) for sequence in sequences], 2).flatten(1, 2)


def scatter_heads(x: Tensor, group: ProcessGroup) -> Tensor:
    """[B, N / P, H, D] -> [B, N, H / P, D], on P ranks."""
    from yunchang.comm.all_to_all import SeqAllToAll4D  # comes with xFuser

    return SeqAllToAll4D.apply(group, x, 2, 1)


def gather_heads(x: Tensor, group: ProcessGroup) -> Tensor:
    """The inverse of `scatter_heads`."""
    from yunchang.comm.all_to_all import SeqAllToAll4D

    return SeqAllToAll4D.apply(group, x, 1, 2)


def wan_shards(family: Family, model: nn.Module, arguments: Mapping, grid: VideoLayout, shard: int, ranks: int) -> Shards:
    """Of a call of Wan's: one sequence, that of the host.

    Args:
        arguments: of the forward, by name.
        grid: the video's.
        shard: tokens of a rank.

    Raises:
        StayDense: what the tokens beyond the grid are is not known.
    """
    tokens = _unpadded(family, model, arguments, grid, shard * ranks, ranks)
    return Shards(ranks, (tokens,), token_layout(family, model, arguments, grid, tokens))


def _unpadded(family: Family, model: nn.Module, arguments: Mapping, grid: VideoLayout, tokens: int, ranks: int) -> int:
    """Of so many tokens, how many are no padding; all where that cannot be told, since raylight attends to it too."""
    videos = [video_grid(family, model, video.shape) for video in arguments.get("context_latents") or ()]
    known = grid.video_tokens + sum(video.video_tokens for video in videos)
    if 0 <= tokens - known < ranks:
        return known
    padding = (tokens - grid.video_tokens) % grid.frame_tokens  # beyond whole frames: reference images
    return tokens - padding if padding < ranks else tokens


def hunyuan_shards(
    family: Family, model: nn.Module, arguments: Mapping, grid: VideoLayout, shard: int, ranks: int, calls: int | None
) -> Shards:
    """Of a call of HunyuanVideo's: text and image one after the other, or as one sequence in the single blocks.

    Args:
        arguments, grid, shard: as in `wan_shards`.
        calls: of the video's self-attention that came before in this forward, None if that does not tell the block.

    Raises:
        StayDense: the sizes are not what is known of the model.
    """
    reference = arguments.get("ref_latent")
    before = 0 if reference is None else video_grid(family, model, reference.shape).video_tokens
    text, image = _hunyuan_text(model, arguments), before + grid.video_tokens
    two, one = (
        Shards(ranks, lengths, replace(grid, text_before=text + before)) for lengths in ((text, image), (text + image,))
    )
    fitting = [shards for shards in (two, one) if sum(shards.pieces) == shard]
    if not fitting:
        sizes = f"{shard} tokens on each of {ranks} GPUs, where {text} of the text and {image} of the video were expected"
        raise StayDense("layout", f"the call has {sizes}")
    if len(fitting) > 1 and calls is None:
        raise StayDense("multi_gpu", "a node replaces blocks of the model, and which of them a call is in cannot be told")
    return fitting[0 if len(fitting) == 1 or calls < len(model.double_blocks) else 1]


def _hunyuan_text(model: nn.Module, arguments: Mapping) -> int:
    """Tokens of the text, of what is written in the picture, and of the image that stands for the first frame."""
    more: Sequence = (
        arguments.get("txt_byt5") if getattr(model, "byt5_in", None) is not None else None,
        arguments.get("clip_fea"),
    )
    return text_tokens(arguments) + sum(tokens.shape[1] for tokens in more if tokens is not None)
