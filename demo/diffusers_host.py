"""Renders with diffusers: the pack's attention in WanTransformer3DModel, for machines without a ComfyUI."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from moving_shapes import embed, from_latent
from render import CHECKPOINT, GUIDANCE, LAYERS, METHODS, Method, Progress, Render, Scene
from sparse_videogen.svg_core import AttentionStats, SparseState, SVG2Config, SVGConfig, VideoLayout, sparse_attention, warm_up
from tiny_wan import shifted
from torch import Tensor

CONFIG = Path(__file__).with_name("tiny_wan_config")
CONFIGS = {"SVGAttention": SVGConfig, "SVG2Attention": SVG2Config}
TIE = 1e-5  # a step that falls on the border runs sparse, as in the node


def load_model():
    """The tiny model, float32.

    Raises:
        RuntimeError: diffusers is not installed.
    """
    try:
        from diffusers import WanTransformer3DModel
        from diffusers.utils import logging
    except ImportError:
        raise RuntimeError("diffusers is not installed: pip install diffusers, or set COMFYUI_PATH=/path/to/ComfyUI") from None
    logging.set_verbosity_error()
    options = {"config": str(CONFIG), "local_files_only": True, "torch_dtype": torch.float32}
    return WanTransformer3DModel.from_single_file(str(CHECKPOINT), **options).eval()


@dataclass
class Run:
    """What one video's attention calls share, and what they counted."""

    config: SVGConfig | SVG2Config | None
    layout: VideoLayout
    sparse: bool = False  # whether this step is
    seconds: float = 0.0
    stats: list[AttentionStats] = field(default_factory=list)
    state: SparseState = field(default_factory=SparseState)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of q, k, v [B, H, N, D], dense or sparse."""
        begin = time.perf_counter()
        shared = {"config": self.config, "layout": self.layout, "state": self.state, "key": layer}
        if self.sparse:
            out, stats = sparse_attention(q, k, v, **shared, measure_error=True)
            self.stats.append(stats)
        else:
            if self.config is not None:
                warm_up(q, k, **shared)
            out = F.scaled_dot_product_attention(q, k, v)
        self.seconds += time.perf_counter() - begin
        return out


class Processor:
    """diffusers' attention processor of one layer: its projections, norms and rotation, our attention."""

    def __init__(self, layer: int, run: Run):
        self.layer, self.run = layer, run

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = (_rotate(x, *rotary_emb) for x in (q, k))
        out = self.run.attend(self.layer, *(x.transpose(1, 2) for x in (q, k, v)))
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


@torch.no_grad()
def render(model, scene: Scene, method: Method, progress: Progress = lambda text, done, total: None) -> Render:
    """One video by Euler's method at the host's schedule, with the prompt and without one in one batch."""
    inputs, schedule = method.inputs, method.schedule
    config = CONFIGS[method.node](**inputs) if method.node else None
    _, _, *grid = scene.latent_shape
    run = Run(config, VideoLayout(grid[0], grid[1] // 2, grid[2] // 2))
    for layer, block in enumerate(model.blocks):
        block.attn1.set_processor(Processor(layer, run))
    text, sigmas = torch.cat([embed(scene.prompt), embed(None)]), [shifted(1 - i / scene.steps) for i in range(scene.steps + 1)]
    x = torch.randn(scene.latent_shape, generator=torch.Generator().manual_seed(scene.seed))
    begin = time.perf_counter()
    for i in range(scene.steps):
        progress(method.name, i, scene.steps)
        run.sparse = config is not None and sigmas[i] <= shifted(1 - schedule["start_percent"]) * (1 + TIE)
        time_of_both = torch.full((2,), 1000 * sigmas[i])
        prompted, plain = model(x.expand(2, -1, -1, -1, -1), time_of_both, text, return_dict=False)[0].split(1)
        x = x + (sigmas[i + 1] - sigmas[i]) * (plain + GUIDANCE * (prompted - plain))
    seconds, figures = time.perf_counter() - begin, (1.0, 1.0, 0.0)
    if run.stats:
        names = ("density", "computed", "error")
        figures = (torch.cat([getattr(stats, name) for stats in run.stats]).mean().item() for name in names)
    steps = (scene.steps, len(run.stats) // LAYERS)
    return Render(method.name, from_latent(x)[0], *figures, *steps, run.seconds, seconds)


def render_all(scene: Scene, progress: Progress) -> list[Render]:
    """A render a method, dense first."""
    model = load_model()
    render(model, Scene(frames=2, pixels=32, steps=1), METHODS[0])  # pays for what torch sets up once
    total = len(METHODS) * scene.steps
    return [
        render(model, scene, method, lambda text, done, _, i=i: progress(text, i * scene.steps + done, total))
        for i, method in enumerate(METHODS)
    ]
