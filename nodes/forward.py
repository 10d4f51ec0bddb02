"""One forward of the diffusion model: its grid, its place in the schedule, and which attention calls are the video's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor, nn

from ..kernels import choose_backend
from ..svg_core import VideoLayout
from .families import Family, place_text, video_grid
from .run import Run

HEAD_DIMS = (64, 128)


@dataclass(frozen=True)
class Call:
    """One call of the host's attention, its q, k, v as [B, H, N, D] views.

    Attributes:
        sm_scale: the caller's softmax scale, None for D^-0.5.
        skip_output_reshape: the caller wants [B, H, N, D] back instead of [B, N, H * D].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    sm_scale: float | None
    skip_output_reshape: bool
    options: dict

    @classmethod
    def read(
        cls, q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs
    ) -> Call:
        """From the arguments of the host's `optimized_attention`."""
        if not skip_reshape:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        options = kwargs.get("transformer_options") or {}
        return cls(q, k, v, mask, kwargs.get("scale"), skip_output_reshape, options)

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
        self.run, self.family, self.diffusion_model = run, family, diffusion_model
        self.inside = False
        options = arguments["transformer_options"]
        self.grid = video_grid(diffusion_model, arguments.get("x"))
        reference = video_grid(diffusion_model, arguments.get("ref_latent"))
        self.reference_tokens = 0 if reference is None else reference.video_tokens
        self.schedule_reason = run.schedule_reason(float(options["sigmas"].max()))
        window = options.get("context_window")
        self.branch = (tuple(options.get("uuids", ())), None if window is None else tuple(window.index_list))
        self._calls: Counter[int] = Counter()

    def is_video_attention(self, call: Call) -> bool:
        """Whether the call is self-attention over at least the whole video, not cross-attention or a text refiner."""
        return self.grid is not None and call.q.shape[2] == call.k.shape[2] >= self.grid.video_tokens

    def place(self, call: Call) -> tuple[int, Hashable]:
        """The call's layer, and a key that is the same in every step and no other call's."""
        layer = self._layer(call.options)
        self._calls[layer] += 1
        return layer, (self.branch, layer, self._calls[layer], tuple(call.q.shape), call.q.device)

    def _layer(self, options: dict) -> int:
        """Position among the model's blocks; by counting where the host does not tell."""
        if "block_index" not in options:
            return self._calls.total()
        before = len(self.diffusion_model.double_blocks) if options.get("block_type") == "single" else 0
        return before + options["block_index"]

    def layout(self, call: Call) -> VideoLayout | str:
        """The layout of the call's tokens, or why it is not understood."""
        grid = VideoLayout(*call.options["grid_sizes"]) if "grid_sizes" in call.options else self.grid
        return place_text(self.family, self.diffusion_model, grid, call.q.shape[2], self.reference_tokens)

    def dense_reason(self, call: Call, layer: int, layout: VideoLayout | str) -> str | None:
        """Why the call stays dense, as "label: explanation", or None; decided before any work."""
        settings = self.run.settings
        tokens, head_dim = call.q.shape[2:]
        if isinstance(layout, str):
            return layout
        if tokens < settings.min_tokens:
            return f"min_tokens: {tokens} tokens are fewer than {settings.min_tokens}"
        if call.mask is not None:
            return f"mask: an attention mask {tuple(call.mask.shape)} is given"
        if head_dim not in HEAD_DIMS:
            return f"head_dim: {head_dim} is none of {HEAD_DIMS}"
        if not call.q.shape == call.k.shape == call.v.shape:
            return f"heads: q {tuple(call.q.shape)} and k {tuple(call.k.shape)} have unlike heads"
        if layer in settings.dense_blocks:
            return f"dense_blocks: {layer}"
        return self.schedule_reason or self.run.failure or self._backend_reason(call)

    def _backend_reason(self, call: Call) -> str | None:
        """Torch alone launches thousands of small products a layer: no gain is to be expected on a GPU without Triton."""
        device, backend = call.q.device, self.run.settings.backend
        if device.type == "cuda" and backend == "auto" and choose_backend(backend, device) == "torch":
            return "backend: Triton is not installed; run 'pip install triton' (Windows: 'pip install triton-windows')"
        return None
