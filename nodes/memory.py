"""How much memory a run may take, how much it will, and that the host knows before it loads the model."""

from __future__ import annotations

import threading

import comfy.model_management

from ..kernels.gather_attention import tile_rows
from ..svg_core.attention import WORKSPACE_BYTES
from ..svg_core.memory import call_bytes, state_bytes
from .families import Family, attention_shape, video_grid
from .settings import Settings

# Shares of the device's memory. The state over its share waits in host memory; lists over theirs are made for
# fewer heads at a time. At 24 GB: 1.2 GB for the state (Wan 14B at 720p with cond and uncond has 1.06), 375 MB of lists.
STATE_SHARE = 1 / 20
WORKSPACE_SHARE = 1 / 64


def budgets(device) -> tuple[int, int]:
    """(state, workspace) in bytes for a run on the device."""
    total = comfy.model_management.get_total_memory(device)
    return int(total * STATE_SHARE), min(WORKSPACE_BYTES, int(total * WORKSPACE_SHARE))


def run_bytes(settings: Settings, family: Family, patcher, noise_shape, conds: dict) -> int:
    """Bytes of GPU memory that a run takes beyond the dense model's, 0 where that cannot be told.

    Args:
        patcher: the ModelPatcher about to be loaded.
        noise_shape: [B, C, T, H, W] of the sampler's noise.
        conds: the guider's conditionings by name, each a list.
    """
    model = patcher.get_model_object("diffusion_model")
    layout = video_grid(model, noise_shape)
    shape = attention_shape(family, model)
    if layout is None or shape is None or layout.video_tokens < settings.min_tokens:
        return 0
    device = patcher.load_device
    state_budget, workspace = budgets(device)
    size = {"batch": noise_shape[0], "heads": shape.heads, "head_dim": shape.head_dim}
    block_m = tile_rows(shape.head_dim, device)
    branches = sum(len(conditionings) for conditionings in conds.values())
    state = shape.layers * branches * state_bytes(settings.config, layout, **size)
    call = call_bytes(settings.config, layout, block_m=block_m, workspace_bytes=workspace, **size)
    return call + min(state, state_budget)


_one_at_a_time = threading.RLock()  # threads that sample one model share the object that the estimate is put on


def tell_host(executor, extra_bytes: int, patcher, *args, **kwargs):
    """Runs the host's loading of a model with its estimate of working memory raised by `extra_bytes`."""
    model = patcher.model
    with _one_at_a_time:
        estimate, own = model.memory_required, vars(model).get("memory_required")

        def with_ours(*shapes, **options):
            return estimate(*shapes, **options) + extra_bytes

        model.memory_required = with_ours
        try:
            return executor(patcher, *args, **kwargs)
        finally:
            if own is None:
                del model.memory_required
            else:
                model.memory_required = own  # another pack's
