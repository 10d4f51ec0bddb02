"""One forward of the diffusion model: its grid, its place in the schedule, and which attention calls are the video's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..kernels import triton_obstacle
from ..svg_core import VideoLayout
from .families import Family, forward_grid, place, text_tokens
from .masks import mask_text, masked_keys
from .run import Run
from .settings import describe_blocks

HEAD_DIMS = (64, 128)


@dataclass(frozen=True)
class VideoCall:
    """One call of the host's attention over the video's own tokens, its q, k, v as [B, H, N, D] views.

    Attributes:
        sm_scale: the caller's softmax scale, None for D^-0.5.
        skip_output_reshape: the caller wants [B, H, N, D] back instead of [B, N, H * D].
        layer: position among the model's attention blocks.
        key: the same in every step, and no other call's.
        layouts: of the tokens, one for the whole batch or one for each element; empty if not understood.
        reason: why the call stays dense, as "label: explanation", or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    sm_scale: float | None
    skip_output_reshape: bool
    layer: int
    key: Hashable
    layouts: list[VideoLayout]
    reason: str | None

    def result(self, out: Tensor) -> Tensor:
        """out [B, H, N, D] in the shape that the caller wants."""
        return out if self.skip_output_reshape else out.transpose(1, 2).flatten(2)


class Forward:
    """What holds for all attention calls of one forward.

    Attributes:
        run: the sampling run that it belongs to.
        inside: the host's own attention is being called; overrides that lead back here pass it on.
    """

    def __init__(self, run: Run, family: Family, diffusion_model: nn.Module, arguments: dict):
        self.run, self.family, self.diffusion_model, self.arguments = run, family, diffusion_model, arguments
        self.inside = False
        options = arguments["transformer_options"]
        self.grid = forward_grid(diffusion_model, arguments)
        self.schedule_reason = run.begin_forward(options)
        window = options.get("context_window")
        replaced = frozenset(options.get("patches_replace", {}).get("dit", ()))  # skip-layer guidance leaves some out
        self.branch = (tuple(options.get("uuids", ())), None if window is None else tuple(window.index_list), replaced)
        self._others = family.others and family.others(diffusion_model, arguments)
        self._calls: Counter[int] = Counter()
        self._alike: Counter[Hashable] = Counter()  # calls that may or may not be the video's
        self._mask: Tensor | None = None

    def video_call(
        self, q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs
    ) -> VideoCall | None:
        """From the arguments of the host's `optimized_attention`; None if it is not the video's own.

        Those others are cross-attention, text refiners and the like.
        """
        options = kwargs["transformer_options"]
        if not skip_reshape:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        if self.grid is None or not self._is_self_attention(q.shape[2], k.shape[2], options):
            return None
        layer, key = self._place(options, q)
        layouts = self._layouts(q.shape[2], k.shape[2], mask, options)
        reason = layouts if isinstance(layouts, str) else self._dense_reason(q, k, v, layer)
        layouts = [] if isinstance(layouts, str) else layouts
        return VideoCall(q, k, v, kwargs.get("scale"), skip_output_reshape, layer, key, layouts, reason)

    def _is_self_attention(self, rows: int, keys: int, options: dict) -> bool:
        """Whether a call is the video's own attention, and not that of a text which happens to be as long.

        Told apart by their order: what comes before the first block, and after the self-attention of each.
        """
        if rows < self.grid.video_tokens:
            return keys >= self.grid.video_tokens  # a part of the video's queries, as frame by frame
        if rows != keys:
            return False
        before, after = self._others or ([], [])
        if keys not in before and keys not in after:
            return True
        block = (options.get("block_type"), options.get("block_index"))
        nth = self._alike[block, keys]
        self._alike[block, keys] += 1
        if "block_index" not in options:  # not in a block yet, or the host does not tell
            nth -= before.count(keys)
        return nth >= 0 and nth % (1 + after.count(keys)) == 0

    @property
    def calls(self) -> int:
        """Self-attention calls of the video so far."""
        return self._calls.total()

    def _place(self, options: dict, q: Tensor) -> tuple[int, Hashable]:
        """The call's layer and key."""
        layer = self._layer(options)
        self._calls[layer] += 1
        return layer, (self.branch, layer, self._calls[layer], tuple(q.shape), q.device)

    def _layer(self, options: dict) -> int:
        """Position among the model's blocks; by counting where the host does not tell."""
        if "block_index" not in options:
            return self.calls
        before = len(self.diffusion_model.double_blocks) if options.get("block_type") == "single" else 0
        return before + options["block_index"]

    def _layouts(self, rows: int, tokens: int, mask: Tensor | None, options: dict) -> list[VideoLayout] | str:
        """The layout of all tokens, or one for each element of the batch if their masks differ, or why not."""
        if rows != tokens:
            return f"layout: {rows} queries over {tokens} keys; attention in parts, such as frame by frame, is not supported"
        if self._others is None and tokens == text_tokens(self.arguments):
            return f"layout: text and video have {tokens} tokens each, and which attention is whose is not known for this model"
        grid = VideoLayout(*options["grid_sizes"]) if "grid_sizes" in options else self.grid
        layout = place(self.family, self.diffusion_model, self.arguments, grid, tokens)
        if mask is None or isinstance(layout, str):
            return layout if isinstance(layout, str) else [layout]
        if self._mask is not mask:  # all blocks get the same: it is read, which waits for the GPU, once a forward
            self._mask, self._masked = mask, masked_keys(mask, tokens)
        return self._masked if isinstance(self._masked, str) else mask_text(layout, self._masked)

    def _dense_reason(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> str | None:
        """Why a call whose layout is understood stays dense, or None; decided before any work."""
        settings = self.run.settings
        tokens, head_dim = q.shape[2:]
        if tokens < settings.min_tokens:
            return f"min_tokens: {tokens} tokens are fewer than {settings.min_tokens}"
        if head_dim not in HEAD_DIMS:
            return f"head_dim: {head_dim} is none of those supported, {HEAD_DIMS}"
        if not q.shape == k.shape == v.shape:
            return f"heads: q {tuple(q.shape)} and k {tuple(k.shape)} have different numbers of heads"
        if layer in settings.dense_blocks:
            return f"dense_blocks: block {describe_blocks(settings.dense_blocks)}"
        if self.run.training:
            return "training: gradients are enabled, and sparse attention cannot compute them"
        return self.schedule_reason or self.run.failure or self._backend_reason(q.device)

    def _backend_reason(self, device: torch.device) -> str | None:
        """Torch alone launches thousands of small products a layer: no gain is to be expected on a GPU without Triton."""
        obstacle = triton_obstacle(device) if device.type == "cuda" and self.run.settings.backend == "auto" else None
        return obstacle and f"backend: {obstacle}"
