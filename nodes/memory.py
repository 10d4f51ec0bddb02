"""How much memory a run may take, how much it will, and that the host knows before it loads the model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import torch

from ..kernels.gather_attention import tile_rows
from ..svg_core import VideoLayout
from ..svg_core.attention import WORKSPACE_BYTES
from ..svg_core.memory import call_bytes, state_bytes
from . import host
from .families import AttentionShape, Family, attention_shape, video_grid
from .settings import Settings

# Shares of the device's memory. The state over its share waits in host memory; lists over theirs are made for
# fewer heads at a time. At 24 GB: 1.2 GB for the state (Wan 14B at 720p with cond and uncond has 1.06), 375 MB of lists.
STATE_SHARE = 1 / 20
WORKSPACE_SHARE = 1 / 64


def budgets(device) -> tuple[int, int]:
    """(state, workspace) in bytes for a run on the device."""
    total = comfy.model_management.get_total_memory(device)
    return int(total * STATE_SHARE), min(WORKSPACE_BYTES, int(total * WORKSPACE_SHARE))


def run_bytes(settings: Settings, family: Family, patcher, noise_shape, conds: dict) -> RunBytes | None:
    """Bytes of GPU memory that a run takes beyond the dense model's, None where that cannot be told or is nothing.

    Args:
        patcher: the ModelPatcher about to be loaded.
        noise_shape: [B, C, T, H, W] of the sampler's noise.
        conds: the guider's conditionings by name, each a list; the host shares them out among its devices.
    """
    model = patcher.get_model_object("diffusion_model")
    layout = video_grid(model, noise_shape)
    shape = attention_shape(family, model)
    if layout is None or shape is None or layout.video_tokens < settings.min_tokens:
        return None
    devices = 1 + len(host.other_devices(patcher))
    branches = -(-sum(len(conditionings) for conditionings in conds.values()) // devices)
    return RunBytes(settings, layout, shape, noise_shape[0], branches, patcher.load_device)


@dataclass(frozen=True)
class RunBytes:
    """What a run takes on a device, for so many videos in `branches` conditionings."""

    settings: Settings
    layout: VideoLayout
    shape: AttentionShape
    videos: int
    branches: int
    device: torch.device

    def __call__(self, batch: int, held: int = 0) -> int:
        """Bytes for calls of `batch` elements, beyond those of the state that are `held` already."""
        state_budget, workspace = budgets(self.device)
        heads = {"heads": self.shape.heads, "head_dim": self.shape.head_dim}
        state = state_bytes(self.settings.config, self.layout, batch=self.videos, **heads)
        state = min(state * self.shape.layers * self.branches, state_budget)
        call = call_bytes(
            *(self.settings.config, self.layout),
            batch=min(batch, self.videos * self.branches),
            block_m=tile_rows(self.shape.head_dim, self.device),
            workspace_bytes=workspace,
            **heads,
        )
        return call + max(0, state - held)


_one_at_a_time = threading.RLock()  # threads that sample one model share the object that the estimate is put on


def tell_host(executor, extra: Callable[[int], int], patcher, *args, **kwargs):
    """Runs the host's loading of a model with its estimate for a batch raised by `extra(batch)` bytes."""
    model = patcher.model
    with _one_at_a_time:
        estimate, own = model.memory_required, vars(model).get("memory_required")

        def with_ours(shape, **options):
            return estimate(shape, **options) + extra(shape[0])

        model.memory_required = with_ours
        try:
            return executor(patcher, *args, **kwargs)
        finally:
            if own is None:
                del model.memory_required
            else:
                model.memory_required = own  # another pack's


class WithRunBytes:
    """A model of the host whose estimate for a batch is raised; in all else it is that model.

    For the host's choice of the conditionings that it batches, in a thread that may not be alone with the model.
    """

    def __init__(self, model, extra: Callable[[int], int]):
        self._model, self._extra = model, extra

    def memory_required(self, shape, **options):
        """As the model's own: bytes for a batch of this shape."""
        return self._model.memory_required(shape, **options) + self._extra(shape[0])

    @property
    def __class__(self):
        return type(self._model)

    def __getattr__(self, name):
        return getattr(self._model, name)
