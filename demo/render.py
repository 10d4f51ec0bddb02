"""What the demo renders and measures, whichever host does the work.

Loads the pack, and puts tests/harness, which finds and runs a ComfyUI, on the import path.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moving_shapes import CELL
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "harness"))
from load_pack import load_pack  # noqa: E402

load_pack()

CHECKPOINT = Path(__file__).with_name("tiny_wan.safetensors")
LAYERS = 4
GUIDANCE = 2.5  # without any, the tiny model's shapes are blobs; larger models are sampled with 3.5-6


@dataclass(frozen=True)
class Scene:
    """What is rendered: 21 frames of 96 x 96 pixels are 3,024 tokens.

    Attributes:
        prompt: number in moving_shapes.PROMPTS.
        pixels: height and width, a multiple of 8.
    """

    prompt: int = 0
    seed: int = 0
    frames: int = 21
    pixels: int = 96
    steps: int = 20

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, height and width in tokens: 2 x 2 latent cells."""
        return (self.frames, self.pixels // CELL // 2, self.pixels // CELL // 2)


@dataclass(frozen=True)
class Method:
    """A node and its widgets, or the model's own attention (`node` None).

    Attributes:
        inputs: names and values as the node's widgets have them; the schedule and the blocks are in `schedule`.
        start_percent: share of the schedule that runs dense first.
    """

    name: str
    node: str | None
    inputs: dict
    start_percent: float = 0.2

    @property
    def schedule(self) -> dict:
        """The widgets that all methods share: from `start_percent` to the end, and every one of the four blocks."""
        return {"start_percent": self.start_percent, "end_percent": 1.0, "dense_blocks": "", "min_tokens": 0}


# 12 query clusters are one for each tile of a CPU (256 rows); key clusters are small, for a video of so few tokens.
CLUSTERS = {"q_clusters": 12, "k_clusters": 384}
# The node always cuts full tiles, and has no input for the paper's, which end at each cluster's border.
PUBLISHED = {"kmeans_init_iters": 50, "kmeans_step_iters": 2, "tail": "off"}
PAPER = {**CLUSTERS, **PUBLISHED, "choose_by": "top_p", "top_p": 0.9, "min_keep": 0.05}
FLAT = {**CLUSTERS, "density_start": 1.0}
METHODS = (
    Method("dense", None, {}),
    Method("SVG", "SVGAttention", {"sparsity": 0.7}),
    Method("SVG2 as published", "SVG2Attention", PAPER),
    Method("SVG2", "SVG2Attention", {**FLAT, "density": 0.3}),
    Method("SVG2 at half", "SVG2Attention", {**FLAT, "density": 0.15}),
    Method("SVG2, no dense step", "SVG2Attention", {**CLUSTERS, "density": 0.3, "density_start": 1.5}, start_percent=0.0),
)


WARM_UP = Scene(frames=2, pixels=32, steps=1)


@dataclass(frozen=True)
class Render:
    """One finished video.

    Attributes:
        video: [T, H, W] in about [-1, 1].
        density, computed, error: means over the sparse calls; 1, 1 and 0 for dense.
        sparse_steps: of `steps`.
        attention_s, total_s: wall time of the video's self-attention, planning included, and of all sampling.
    """

    method: str
    video: Tensor
    density: float
    computed: float
    error: float
    steps: int
    sparse_steps: int
    attention_s: float
    total_s: float

    @property
    def work(self) -> float:
        """As `work` has it."""
        return work(self.density, self.sparse_steps, self.steps)


def work(density: float, sparse_steps: float, steps: int) -> float:
    """Attention's share of what a dense run would compute, dense steps counted."""
    return 1 - sparse_steps / steps * (1 - density)


def each_method(render: Callable[[Scene, Method], Render], scene: Scene) -> list[Render]:
    """A render a method, dense first; one more before them pays for what a host sets up once."""
    render(WARM_UP, METHODS[0])
    done = []
    for method in METHODS:
        print(f"{method.name} ...", flush=True)
        done.append(render(scene, method))
    return done
