"""One forward of the diffusion model: its grid, its place in the schedule, and which attention calls are the video's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from ..kernels import backend_status
from ..kernels.gather_attention import HEAD_DIMS
from ..svg_core import VideoLayout
from .families import Family, layer_of, text_tokens
from .layouts import forward_grid, token_layout
from .masks import mask_text, masked_keys
from .reasons import Reason, StayDense
from .run import Run
from .settings import describe_blocks


@dataclass(frozen=True)
class VideoCall:
    """One call of the host's attention over the video's own tokens, its q, k, v as [B, H, N, D] views.

    Attributes:
        sm_scale: the caller's softmax scale, None for D^-0.5.
        skip_output_reshape: the caller wants [B, H, N, D] back instead of [B, N, H * D].
        layer: position among the model's attention blocks.
        key: the same in every step, and no other call's.
        sharing: what says with whom it is planned, by argument of `sparse_attention`; empty: alone.
        videos: in the batch; elements b and b + videos are one, with a prompt and without.
        layouts: of the tokens, one for the whole batch or one for each element.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    sm_scale: float | None
    skip_output_reshape: bool
    layer: int
    key: Hashable
    sharing: dict[str, Hashable]
    videos: int
    layouts: list[VideoLayout]


class Forward:
    """What holds for all attention calls of one forward.

    Attributes:
        run: the sampling run that it belongs to.
        schedule_reason: why all calls stay dense at this place in the schedule, or None.
        layer: of the last call that was the video's, as in `VideoCall`; None before it.
        inside: the host's own attention is being called; overrides that lead back here pass it on.
    """

    def __init__(self, run: Run, family: Family, diffusion_model: nn.Module, arguments: dict):
        self.run, self.family, self.diffusion_model, self.arguments = run, family, diffusion_model, arguments
        self.layer: int | None = None
        self.inside = False
        options = arguments["transformer_options"]
        self.grid = forward_grid(family, diffusion_model, arguments)
        self.schedule_reason = run.begin_forward(options)
        window = options.get("context_window")
        replaced = options.get("patches_replace", {}).get("dit", ())  # guidance by what a model makes without some layers
        without = (name for name in ("a2v_cross_attn", "v2a_cross_attn") if not options.get(name, True))
        left_out = frozenset((*replaced, *options.get("stg_self_attn_blocks", ()), *without))
        conditionings = tuple(options.get("uuids", ()))
        self.place = (None if window is None else tuple(window.index_list), left_out)
        self.branch = (conditionings, *self.place)
        self._turn = run.turn.number
        self._paired = len(conditionings) if run.turn.has(conditionings) else 0  # conditionings of a pair in this batch
        self._others = family.others and family.others(diffusion_model, arguments)
        self._head_dim = family.heads(diffusion_model)[1]  # 0 where that is not known
        self._calls: Counter[int] = Counter()
        self._alike: Counter[Hashable] = Counter()  # calls that may or may not be the video's
        self._mask: Tensor | None = None

    def video_call(self, *args, **kwargs) -> VideoCall | None:
        """From the arguments of the host's `optimized_attention`; None if it is not the video's own.

        Those others are cross-attention, text refiners and the like.

        Raises:
            StayDense: it is the video's, but cannot be sparse, or has an argument that no host was seen to pass.
        """
        self.layer = None
        with self.never_lost():
            return self._video_call(*args, **kwargs)

    def known_call(self, q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout, options: Mapping) -> VideoCall:
        """A call that is known to be the video's, with q, k, v [B, H, N, D] and the transformer_options at hand.

        Raises:
            StayDense: as `video_call`.
        """
        self._begin_layer(options, part=False)
        return self._call(q, k, v, [layout])

    @contextmanager
    def never_lost(self) -> Iterator[None]:
        """Whatever goes wrong within becomes a `StayDense`."""
        try:
            yield
        except StayDense:
            raise
        except Exception as error:
            raise StayDense(*self.run.fail(error)) from error

    def _video_call(
        self, q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs
    ) -> VideoCall | None:
        options = kwargs["transformer_options"]
        if not skip_reshape:
            q, k, v = (rearrange(x, "b n (h d) -> b h n d", d=q.shape[2] // heads) for x in (q, k, v))
        rows, tokens = q.shape[2], k.shape[2]
        if self.grid is None or q.shape[3] != (self._head_dim or q.shape[3]):
            return None
        if not self._is_self_attention(rows, tokens, options):
            return None
        self._begin_layer(options, part=rows < self.grid.video_tokens)
        layouts = self._layouts(rows, tokens, mask, options)
        groups = q.shape[1] // k.shape[1] if kwargs.get("enable_gqa") else 1  # several heads of queries to one of keys
        return self._call(q, k, v, layouts, groups, scale=kwargs.get("scale"), skip_output_reshape=skip_output_reshape)

    def _begin_layer(self, options: Mapping, part: bool) -> None:
        """Takes note of the layer that a call is of; of the last one's again if it computes but a part."""
        if self._calls and part and "block_index" not in options:
            self.layer = max(self._calls)
        else:
            self.layer = layer_of(self.family, self.diffusion_model, options, self.calls)
            self._calls[self.layer] += 1

    def _call(self, q, k, v, layouts, groups=1, scale=None, skip_output_reshape=True) -> VideoCall:
        self._check(q, k, v, groups)
        if groups > 1:
            k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        layer = self.layer
        key = (self.branch, layer, self._calls[layer], tuple(q.shape), q.device)
        paired = self._paired if len(q) % max(1, self._paired) == 0 else 0  # or a GPU got one conditioning of the batch
        videos = len(q) // max(1, paired)
        sharing = self._sharing(q, videos, paired, layer, layouts)
        return VideoCall(q, k, v, scale, skip_output_reshape, layer, key, sharing, videos, layouts)

    def _sharing(self, q: Tensor, videos: int, paired: int, layer: int, layouts: list[VideoLayout]) -> dict[str, Hashable]:
        """One video's calls, with a prompt and without, share their clusters, whether they come in one batch or not."""
        if not paired or layer in self.run.parted:
            return {}
        grid, together = layouts[0], paired if len(layouts) == 1 else 1  # one by one, where each has a mask of its own
        key = (self.place, layer, self._calls[layer], videos, q.shape[1], grid.frames, grid.height, grid.width, q.device)
        return {"conditionings": together, "shared_key": key, "turn": self._turn}

    def _is_self_attention(self, rows: int, keys: int, options: dict) -> bool:
        """Whether a call is the video's own attention, and not that of a text which happens to be as long.

        Told apart by their order: what comes before the first block, and after the self-attention of each.
        """
        video = self.grid.video_tokens
        if rows != keys:  # a part of the queries, such as frame by frame or without the keyframes', or cross-attention
            _, after = self._others or ([], [])
            weighted = self.arguments.get("keyframe_idxs") is not None and keys not in after
            return keys >= video and (rows < video or weighted)
        return rows >= video and self.is_videos_turn(keys, options)

    def is_videos_turn(self, keys: int, options: Mapping) -> bool:
        """Whether a call with as many queries as keys is the video's, and not of a text that is as long, by their order."""
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

    def grid_of(self, options: Mapping) -> VideoLayout:
        """The grid, by the transformer_options of a call where a host tells it there."""
        return VideoLayout(*options["grid_sizes"]) if "grid_sizes" in options else self.grid

    def _layouts(self, rows: int, tokens: int, mask: Tensor | None, options: dict) -> list[VideoLayout]:
        """The layout of all tokens, or one for each element of the batch if their masks differ."""
        if rows != tokens:
            parts = f"{rows} queries over {tokens} keys; attention in parts"
            raise StayDense("layout", f"{parts}, such as frame by frame or around weighted keyframes, is not supported")
        if self._others is None and tokens == text_tokens(self.arguments):
            alike = f"text and video have {tokens} tokens each"
            raise StayDense("layout", f"{alike}, so their attention cannot be told apart in this model")
        arguments = {**self.arguments, "transformer_options": options}  # to which a host may have added
        layout = token_layout(self.family, self.diffusion_model, arguments, self.grid_of(options), tokens)
        return [layout] if mask is None else mask_text(layout, self._masked_keys(mask, tokens))

    def _masked_keys(self, mask: Tensor, tokens: int) -> list[tuple[int, ...]]:
        """All blocks get the same mask: it is read, which waits for the GPU, once a forward."""
        if self._mask is not mask:
            self._mask = mask
            try:
                self._masked = masked_keys(mask, tokens)
            except StayDense as stay:
                self._masked = stay.reason
        if isinstance(self._masked, Reason):
            raise StayDense(*self._masked)
        return self._masked

    def _check(self, q: Tensor, k: Tensor, v: Tensor, groups: int) -> None:
        """Raises StayDense for a call whose layout is understood; decided before any work."""
        settings = self.run.settings
        tokens, head_dim = q.shape[2:]
        if tokens < settings.min_tokens:
            raise StayDense("min_tokens", f"{tokens} tokens are fewer than {settings.min_tokens}")
        if head_dim not in HEAD_DIMS:
            raise StayDense(
                "head_dim", f"heads of {head_dim} are not supported, only those of {HEAD_DIMS[0]} and {HEAD_DIMS[1]}"
            )
        if k.shape != v.shape or q.shape != (k.shape[0], groups * k.shape[1], *k.shape[2:]):
            raise StayDense("heads", f"q {tuple(q.shape)} and k {tuple(k.shape)} have different numbers of heads")
        if self.layer in settings.dense_blocks:
            raise StayDense(
                "dense_blocks", f"block{'s' * (len(settings.dense_blocks) > 1)} {describe_blocks(settings.dense_blocks)}"
            )
        if self.run.training:
            raise StayDense("training", "gradients are enabled, and sparse attention cannot compute them")
        _, obstacle = backend_status(q.device, q.dtype, head_dim, settings.backend)
        if obstacle is not None:
            raise StayDense("backend", obstacle)
