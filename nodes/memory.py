"""How much memory a run may take, how much it will, and that the host knows before it loads the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import comfy.model_management

from ..svg_core import WORKSPACE_BYTES, Call
from . import host
from .families import Family, layers
from .layouts import video_grid
from .settings import Settings

# Shares of the device's memory. The state over its share waits in host memory; lists over theirs are made for
# fewer heads at a time. At 24 GB: 1.2 GB for the state (Wan 14B at 720p with cond and uncond has 1.06), 375 MB of lists.
STATE_SHARE = 1 / 20
WORKSPACE_SHARE = 1 / 64


def budgets(device) -> tuple[int, int]:
    """(state, workspace) in bytes for a run on the device."""
    total = comfy.model_management.get_total_memory(device)
    return int(total * STATE_SHARE), min(WORKSPACE_BYTES, int(total * WORKSPACE_SHARE))


@dataclass(frozen=True)
class RunBytes:
    """Bytes of GPU memory that a run takes beyond the dense model's, on the main device where it has several.

    Attributes:
        videos: of one conditioning.
        calls: of a call for one conditioning, for two at once, and so on.
        state: kept from call to call, by all conditionings together.
    """

    videos: int
    calls: tuple[int, ...]
    state: int

    def __call__(self, batch: int, held: int = 0) -> int:
        """Bytes for calls of `batch` elements, beyond those of the state that are `held` already."""
        conditionings = min(-(-batch // self.videos), len(self.calls))
        return self.calls[conditionings - 1] + max(0, self.state - held)


def run_bytes(settings: Settings, family: Family, patcher, size: Sequence[int], conds: dict, gpus: int = 1) -> RunBytes | None:
    """What a run takes, None where that cannot be told or is nothing.

    Args:
        patcher: the ModelPatcher about to be loaded.
        size: [B, C, T, H, W] of the video's latent.
        conds: the guider's conditionings by name, each a list; the host shares them out among its devices.
        gpus: share the heads of each call.
    """
    model = patcher.get_model_object("diffusion_model")
    layout = video_grid(family, model, size)
    number = layers(family, model)
    if layout is None or not number or layout.video_tokens < settings.min_tokens:
        return None
    (heads, head_dim), videos, device = family.heads(model), size[0], patcher.load_device
    heads = -(-heads // gpus)
    devices = 1 + len(host.other_devices(patcher))
    branches = max(1, -(-sum(len(conditionings) for conditionings in conds.values()) // devices))
    state_budget, workspace = budgets(device)
    more = {"workspace_bytes": workspace, "precision": settings.precision}
    call = Call.planned(settings.config.at(0.0), layout, head_dim, device, **more)
    # A prompt and a negative one share what is kept, and have one plan where they come in one batch.
    paired = devices == 1 and len(conds) == 2 and all(len(conditionings) == 1 for conditionings in conds.values())
    together = [replace(call, conditionings=i + 1 if paired else 1) for i in range(branches)]
    state = number * settings.planner.state_bytes(together[-1], videos * branches, heads, head_dim)
    calls = (settings.planner.call_bytes(one, videos * (i + 1), heads, head_dim) for i, one in enumerate(together))
    return RunBytes(videos, tuple(calls), min(state, state_budget))


_one_at_a_time = threading.RLock()  # threads that sample one model share the object that the estimate is put on


def tell_host(executor, extra: Callable[[int], int], patcher, *args, **kwargs):
    """Runs the host's loading of a model with its estimate for a batch raised by `extra(batch)` bytes."""
    model = patcher.model
    with _one_at_a_time:
        estimate, own = model.memory_required, vars(model).get("memory_required")

        def with_ours(input_shape, *args, **kwargs):
            return estimate(input_shape, *args, **kwargs) + extra(input_shape[0])

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
        vars(self).update(_model=model, _extra=extra)

    def memory_required(self, input_shape, *args, **kwargs):
        """As the model's own: bytes for a batch of this shape."""
        return self._model.memory_required(input_shape, *args, **kwargs) + self._extra(input_shape[0])

    @property
    def __class__(self):
        return type(self._model)

    def __getattr__(self, name):
        return getattr(vars(self)["_model"], name)

    def __setattr__(self, name, value):
        setattr(self._model, name, value)

    def __eq__(self, other):
        return other is self or other is self._model

    def __hash__(self):
        return hash(self._model)
