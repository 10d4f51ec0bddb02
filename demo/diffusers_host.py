"""Renders with diffusers: the pack's attention in WanTransformer3DModel, for machines without a ComfyUI."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from render import LAYERS, Method, Render, Scene, each_method
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.svg_core import (
    AttentionStats,
    SparseState,
    SVG2Config,
    SVGConfig,
    VideoLayout,
    places,
    sparse_attention,
    warm_up,
)
from tiny_wan import load, sample, take_attention
from torch import Tensor

CONFIGS = {"SVGAttention": SVGConfig, "SVG2Attention": SVG2Config}
TIE = 1e-5  # a step that falls on the border runs sparse, as in the node
CONDITIONINGS = 2  # the tiny model's batch holds each video with its prompt, and without


@dataclass
class Run:
    """What one video's attention calls share, and what they counted.

    Attributes:
        precision: of the sparse calls' products.
        added: of each sparse call [B, H], how far it is from the same plan in 16 bit, relative to that one's result; of none
            in 16 bit.
    """

    config: SVGConfig | SVG2Config | None
    layout: VideoLayout
    steps: int
    start_percent: float
    conditionings: int = CONDITIONINGS
    end_percent: float = 1.0
    precision: str = PRECISIONS[0]
    step: int = 0
    seconds: float = 0.0
    stats: list[AttentionStats] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    state: SparseState = field(default_factory=SparseState)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Self-attention of q, k, v [B, H, N, D], dense or sparse."""
        begin = time.perf_counter()
        shared = {"layout": self.layout, "state": self.state, "key": layer, "conditionings": self.conditionings}
        progress = [i / self.steps for i in range(self.steps + 1)]
        before = progress[self.step] < self.start_percent * (1 - TIE)
        after = progress[self.step] > self.end_percent * (1 + TIE)
        if self.config is not None and not before and not after:
            config = self.config.at(places(progress, self.start_percent, self.end_percent)[self.step])
            sixteen = None
            if self.precision != PRECISIONS[0]:  # from the same state, so with the same plan
                sixteen, _ = sparse_attention(q, k, v, config=config, **shared | {"state": deepcopy(self.state)})
            out, stats = sparse_attention(q, k, v, config=config, **shared, precision=self.precision, measure_error=True)
            self.stats.append(stats)
            if sixteen is not None:
                self.added.append((out.float() - sixteen).norm(dim=(-2, -1)) / sixteen.float().norm(dim=(-2, -1)))
        else:
            if self.config is not None and before:
                warm_up(q, k, config=self.config, **shared)
            out = F.scaled_dot_product_attention(q, k, v)
        self.seconds += time.perf_counter() - begin
        return out

    def figures(self) -> dict[str, float]:
        """Means of density, computed and error over the sparse calls; none without one.

        In few bits also the mean of `added`, and its highest mean of a head of a layer.
        """
        names = ("density", "computed", "error") if self.stats else ()
        means = {name: torch.cat([getattr(stats, name) for stats in self.stats]).mean().item() for name in names}
        if self.added:
            heads = torch.stack(self.added).unflatten(0, (-1, LAYERS)).mean((0, 2))
            means |= {"added": heads.mean().item(), "added_max": heads.max().item()}
        return means


def render(model, scene: Scene, method: Method) -> Render:
    """One video, at the host's schedule."""
    config = CONFIGS[method.node](**method.inputs) if method.node else None
    run = Run(config, VideoLayout(*scene.grid), scene.steps, method.start_percent)
    take_attention(model, run.attend)

    def before_step(step: int, sigma: float) -> None:
        run.step = step

    begin = time.perf_counter()
    (video,) = sample(model, [scene.prompt], scene.frames, scene.pixels, scene.steps, scene.seed, before_step)
    seconds = time.perf_counter() - begin
    figures = run.figures() or {"density": 1.0, "computed": 1.0, "error": 0.0}
    steps = (scene.steps, len(run.stats) // len(model.blocks))
    return Render(method.name, video, *figures.values(), *steps, run.seconds, seconds)


def render_all(scene: Scene) -> list[Render]:
    """A render a method, dense first."""
    return each_method(partial(render, load()), scene)
