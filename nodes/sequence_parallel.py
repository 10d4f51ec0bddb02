"""Sparse attention where raylight shares a video's tokens out among GPUs, in its Ray workers.

raylight exchanges tokens for heads, attends, and exchanges back in one function, which its model modules look up at call time
and which no attention override sees. Here another stands in its place while a forward of a patched model runs: both exchanges
are raylight's own, tensor by tensor, and the attention between them is ours.

What a rank decides it decides between the exchanges, so that no rank waits for another for ever, whether the others do the same
or not: a call that stays dense on one rank alone, by an error or for want of memory, ends in the right result.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from . import host
from .attend import attend
from .forward import Forward
from .overrides import FORWARD
from .patch import arguments_of
from .reasons import Reason, StayDense
from .shards import Shards, gather_heads, hunyuan_shards, scatter_heads, wan_shards

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

FUNCTION = "xfuser_optimized_attention"
WAN = "raylight.diffusion_models.wan.xdit_context_parallel"
HUNYUAN = "raylight.diffusion_models.hunyuan_video.xdit_context_parallel"
# Where a known model's forward is -> where its blocks look the function up.
BLOCKS = {WAN: WAN, f"{WAN}_animate": WAN, HUNYUAN: "raylight.diffusion_models.flux.xdit_context_parallel"}
_here = threading.local()


@dataclass(frozen=True)
class Degrees:
    """Over how many GPUs xFuser spreads what; 1 for not at all.

    Attributes:
        ulysses: the heads of a call, each with all tokens.
        ring: the queries of a call.
        pipeline: the layers (PipeFusion).
        cfg: the conditionings.
        rank: of this one, among all.
    """

    ulysses: int = 1
    ring: int = 1
    pipeline: int = 1
    cfg: int = 1
    rank: int = 0

    @classmethod
    def here(cls) -> Degrees:
        """Those of this process."""
        if "raylight" not in sys.modules:
            return cls()
        from xfuser.core.distributed import parallel_state as xfuser

        if not xfuser.model_parallel_is_initialized():
            return cls()
        return cls(
            xfuser.get_ulysses_parallel_world_size(),
            xfuser.get_ring_parallel_world_size(),
            xfuser.get_pipeline_parallel_world_size(),
            xfuser.get_classifier_free_guidance_world_size(),
            torch.distributed.get_rank(),
        )

    def obstacle(self, model: nn.Module) -> Reason | None:
        """Why the model's attention cannot be sparse, or None."""
        if self.pipeline > 1:
            text = "PipeFusion computes a video in pieces, each with keys of the step before; set ulysses_degree instead"
        elif self.ring > 1:
            text = (
                f"with ring_degree {self.ring} no GPU has all the keys of a call; set ring_degree to 1 and ulysses_degree to "
                f"{self.ring * self.ulysses}"
            )
        elif self.ulysses > 1 and _home(model) not in BLOCKS:
            text = f"raylight shares out the tokens of {type(model).__name__} in a way that this node does not know"
        else:
            return None
        return Reason("multi_gpu", text)


def _home(model: nn.Module) -> str | None:
    """The module of the forward that raylight gave to a model."""
    return getattr(getattr(model, "forward_orig", None), "__module__", None)


def forward_wrapper(executor, *args, **kwargs):
    """DIFFUSION_MODEL, within the one that describes the forward: our attention in raylight's place."""
    undo = _take_place(executor, args, kwargs)
    try:
        return executor(*args, **kwargs)
    finally:
        undo()


@torch.compiler.disable  # as the override
def _take_place(executor, args: tuple, kwargs: dict) -> Callable[[], None]:
    """Puts our attention in place where it can be sparse; returns what puts raylight's back."""
    options = arguments_of(executor, args, kwargs).get("transformer_options") or {}
    forward = options.get(FORWARD)
    if forward is None or forward.grid is None:
        return _nothing
    try:
        with forward.never_lost():  # or a raylight that is built in another way
            return _put_in_place(forward, options)
    except StayDense as stay:
        forward.grid = None  # nothing of it is looked at any more
        forward.run.count_dense(stay.reason)
        return _nothing


def _put_in_place(forward: Forward, options: Mapping) -> Callable[[], None]:
    """`_take_place` for a forward of a run.

    Raises:
        StayDense: the model's attention cannot be sparse among these GPUs.
    """
    degrees, home = Degrees.here(), _home(forward.diffusion_model)
    reason = degrees.obstacle(forward.diffusion_model)
    if reason is not None:
        raise StayDense(*reason)
    if degrees.ulysses == 1:
        return _nothing
    from yunchang.globals import PROCESS_GROUP

    module, before = sys.modules[BLOCKS[home]], getattr(_here, "attention", None)
    original = getattr(module, FUNCTION)
    _here.attention = SharedAttention(forward, options, PROCESS_GROUP.ULYSSES_PG, degrees.ulysses, hunyuan=home == HUNYUAN)
    setattr(module, FUNCTION, _with_ours(original))

    @torch.compiler.disable
    def undo():
        _here.attention = before
        setattr(module, FUNCTION, original)

    return undo


def _nothing() -> None:
    pass


@functools.cache  # compiled code is made for the same function each time
def _with_ours(original):
    if hasattr(original, "raylights"):  # a forward within a forward
        return original

    @torch.compiler.disable
    def xfuser_optimized_attention(*args, **kwargs):
        ours = getattr(_here, "attention", None)
        return original(*args, **kwargs) if ours is None else ours(original, *args, **kwargs)

    xfuser_optimized_attention.raylights = original
    return xfuser_optimized_attention


class SharedAttention:
    """raylight's function, for the calls of one forward."""

    def __init__(self, forward: Forward, options: Mapping, group: ProcessGroup | None, ranks: int, *, hunyuan: bool = False):
        """`options`: the transformer_options of the forward, in which some models tell the block; `group`: of the `ranks` among
        which the tokens are shared out, as HunyuanVideo's are or as Wan's.
        """
        self.forward, self.options, self.group, self.ranks, self.hunyuan = forward, options, group, ranks, hunyuan
        self._calls = 0  # of the video's

    def __call__(
        self, original, q: Tensor, k: Tensor, v: Tensor, heads, *args, skip_reshape=False, skip_output_reshape=False, **kwargs
    ) -> Tensor:
        """As `original`, raylight's: q, k, v of this rank's tokens [B, n, H * D], or [B, H, n, D] with `skip_reshape`."""
        shard = q.shape[2 if skip_reshape else 1]
        if not (q.shape == k.shape == v.shape and self._is_video(shard)):
            kwargs |= {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
            return original(q, k, v, heads, *args, **kwargs)
        pattern = "b h n d -> b n h d" if skip_reshape else "b n (h d) -> b n h d"
        out = self._attention(*(rearrange(x, pattern, h=heads) for x in (q, k, v)))
        return rearrange(out, "b n h d -> b h n d" if skip_output_reshape else "b n h d -> b n (h d)")

    def _is_video(self, shard: int) -> bool:
        """Whether a call with as many queries as keys on each rank is the video's own."""
        forward = self.forward
        try:
            with forward.never_lost():
                long_enough = shard * self.ranks >= forward.grid.video_tokens
                return long_enough and (self.hunyuan or forward.is_videos_turn(shard, self.options))
        except StayDense as stay:  # then the others get what they wait for from raylight's own
            forward.run.count_dense(stay.reason)
            return False

    def _attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of and for this rank's tokens [B, n, H, D], by way of its share of the heads over all tokens."""
        forward, shards, reason = self.forward, None, None
        forward.layer = None
        try:
            with forward.never_lost():
                shards = self._shards(q.shape[1])
        except StayDense as stay:
            reason = stay.reason
        self._calls += 1

        def share(x: Tensor) -> Tensor:
            x = scatter_heads(x, self.group)
            return (x if shards is None else shards.in_order(x)).transpose(1, 2)

        q, k, v = (share(x) for x in (q, k, v))
        try:
            if reason is None:
                with forward.never_lost():
                    call = forward.known_call(q, k, v, shards.layout, self.options)
                out = attend(forward.run, call, forward.schedule_reason)
        except StayDense as stay:
            reason = stay.reason
        if reason is not None:  # beyond the handlers, as in the override
            forward.run.count_dense(reason, forward.layer)
            with forward.run.record.timed("dense", q.device):
                out = host.attention(q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True)
        out = out.transpose(1, 2)
        return gather_heads(out if shards is None else shards.by_shard(out), self.group)

    def _shards(self, shard: int) -> Shards:
        forward = self.forward
        common = (forward.family, forward.diffusion_model, forward.arguments | {"transformer_options": self.options})
        grid = forward.grid_of(self.options)
        if self.hunyuan:
            replaced = self.options.get("patches_replace", {}).get("dit")  # blocks, which may then be left out
            return hunyuan_shards(*common, grid, shard, self.ranks, None if replaced else self._calls)
        return wan_shards(*common, grid, shard, self.ranks)
