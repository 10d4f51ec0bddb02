"""What a planner is told of an attention call beside q, k and v."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..kernels import PRECISIONS, backend_status, nearest_precision
from ..kernels.gather_attention import HEAD_DIMS, extra_bytes, tile_rows
from .config import Config
from .layout import VideoLayout

WORKSPACE_BYTES = 384 << 20


@dataclass(frozen=True)
class Call:
    """One attention call.

    Attributes:
        config: which method, and its settings.
        layout: where the video's tokens stand in the sequence.
        sm_scale: softmax scale.
        block_m: M, the query rows of a tile.
        backend: "triton" or "torch".
        workspace_bytes: of SVG2's key lists, and of quantised queries, keys and values, that exist at a time; fewer heads run
            together where it is small.
        conditionings: of each video in the batch: elements b, b + V, b + 2V ... of it are video b.
        shared_key: of the clusters, which all conditionings of a video share; None shares them with no other call.
        turn: calls of one shared_key with the same turn are of one moment: the first one's clusters hold for all.
        precision: of the video's products, one that runs here.
        quantised_bytes: of one head's queries, keys and values in this precision.
    """

    config: Config
    layout: VideoLayout
    sm_scale: float
    block_m: int
    backend: str
    workspace_bytes: int = WORKSPACE_BYTES
    conditionings: int = 1
    shared_key: Hashable = None
    turn: Hashable = None
    precision: str = PRECISIONS[0]
    quantised_bytes: int = 0

    @classmethod
    def of(cls, q: Tensor, config, layout, *, sm_scale=None, backend="auto", precision=PRECISIONS[0], **more) -> Call:
        """A call with q [B, H, N, D]; `sm_scale` None is D^-0.5, `backend` may also be "auto", `more` are other attributes.

        `precision` may be one that does not run here: then it is the nearest finer one.

        Raises:
            ValueError: no kernels for this head_dim, or no such precision.
            RuntimeError: the backend cannot run here; the message names the remedy.
        """
        head_dim = q.shape[3]
        if head_dim not in HEAD_DIMS:
            raise ValueError(f"head_dim {head_dim} must be one of {HEAD_DIMS}")
        name, reason = backend_status(q.device, q.dtype, head_dim, backend)
        if reason is not None:
            raise RuntimeError(f"backend={backend!r} cannot run: {reason}. Or choose backend 'torch', which is slow")
        call = cls.planned(config, layout, head_dim, q.device, q.dtype, backend=name, precision=precision, **more)
        return call if sm_scale is None else replace(call, sm_scale=sm_scale)

    @classmethod
    def planned(
        cls,
        config: Config,
        layout: VideoLayout,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        *,
        backend: str = "triton",
        precision: str = PRECISIONS[0],
        **more,
    ) -> Call:
        """A call with such q, k, v, to tell what it takes before there is one: whether the backend runs is not asked."""
        precision, _ = nearest_precision(precision, head_dim, device, dtype, backend)
        more |= {"precision": precision, "quantised_bytes": extra_bytes(layout.tokens, head_dim, device, precision)}
        return cls(config, layout, head_dim**-0.5, tile_rows(head_dim, device, dtype), backend, **more)
