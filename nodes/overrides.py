"""Attention overrides: ours, whose another is, and whether that one computes all that it is asked for."""

from __future__ import annotations

import re
from contextlib import nullcontext

import torch
from einops import rearrange

from . import host
from .attend import attend
from .reasons import StayDense
from .run import Run

KEY = "sparse_videogen"  # of what this pack puts on a model
# In transformer_options; a forward that failed is None.
OVERRIDE, RUN, FORWARD = "optimized_attention_override", "sparse_videogen_run", "sparse_videogen_forward"

# Words in the module names of overrides that are sparse themselves: core's Model Sparse Attention
# (comfy_extras.nodes_sparse_attention), Sol-Attn, RadialAttn, SpargeAttn.
SPARSE = re.compile(r"sparse|sol_?attn|radial|sparge", re.IGNORECASE)


def override_name(override) -> str:
    """The module that an override's function was defined in; a custom node's begins with its folder, without the path."""
    function = getattr(override, "__func__", override)
    module = getattr(function, "__module__", None) or type(override).__module__
    return re.split(r"[/\\]", module)[-1]


def is_sparse(name: str) -> bool:
    """Whether an override of this name looks as if it did not compute attention in full."""
    return SPARSE.search(name) is not None


def is_ours(override) -> bool:
    """Whether an override was made here."""
    return getattr(override, "owner", None) == KEY


def make_override(previous, dense_attention: str = "previous"):
    """An attention override that runs the video's self-attention sparse, and hands all else to `previous` or the host.

    Args:
        previous: another's override, or None.
        dense_attention: "host" leaves `previous` out where the video's self-attention stays dense.
    """

    @torch.compiler.disable  # a compiled model is cut here, instead of being compiled through the planners
    def override(func, *args, **kwargs):
        return _attention(previous, dense_attention, func, args, kwargs)

    @torch.compiler.disable
    def container_function(*args, **kwargs):
        return _attention(previous, dense_attention, host.attention, args, kwargs)

    override.previous = previous
    override.owner = KEY
    override.container_function = container_function
    return override


def _attention(previous, dense_attention: str, func, args: tuple, kwargs: dict):
    """One call of the host's attention, from an override.

    Args:
        previous, dense_attention: as in `make_override`.
        func: the host's.
        args, kwargs: of the call; q, k and v are tensors or the host's containers of them.
    """

    def hosts():
        return (host.preferred_attention() or func)(*args, **kwargs)

    def others():
        return hosts() if previous is None else host.call_override(previous, func, args, kwargs)

    options = kwargs.get("transformer_options") or {}
    run, forward = options.get(RUN), options.get(FORWARD)
    if run is None or (forward is not None and forward.inside):
        return others()
    dense = hosts if dense_attention == "host" else others
    if forward is None:  # whose attention this is cannot be told
        return dense()
    forward.inside = True
    try:
        try:
            call = forward.video_call(*host.peek(args), **kwargs)
            if call is None:
                return others()
            out, by_head = attend(run, call, forward.schedule_reason), call.skip_output_reshape
            call = host.drop(args)
            return out if by_head else rearrange(out, "b h n d -> b n (h d)")
        except StayDense as stay:
            reason = stay.reason
        # Beyond the handler: an error of the host's own attention is no consequence of staying dense.
        run.count_dense(reason, forward.layer)
        call = None  # or the host could free nothing
        with _timed_dense(run, *host.peek(args[:1]), **kwargs):
            return dense()
    finally:
        forward.inside = False


def _timed_dense(run: Run, q=None, *_, **kwargs):
    """Measures a call that stays dense, if its first argument is a tensor as the host's are."""
    return run.record.timed("dense", q.device) if isinstance(q, torch.Tensor) else nullcontext()
